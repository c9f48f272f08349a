"""A student that is there already: predictions of the tests, and an evaluation without its teacher."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import DistillationError
from hf_distill.evaluation.evidence import Evidence
from hf_distill.hub.record import write_whole
from hf_distill.ranks import is_main_process, wait_for_everyone
from hf_distill.recipe import Recipe
from hf_distill.runs import models, results
from hf_distill.runs.abilities import Predicting
from hf_distill.runs.arguments import evaluation_arguments
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.measuring import Answers, answer, latency_of, summarize
from hf_distill.runs.results import RunResult
from hf_distill.runs.workload import Workload
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.text_classification import load_diagnostics


def predict_tests(recipe: Recipe, folder: RunFolder, workload: Workload) -> list[Path]:
    """Predicts the test splits with the student in the folder, and what goes with them (for MNLI the AX set); none of
    data that have no tests to predict."""
    if not isinstance(workload, Predicting):
        return []
    student = _Student(recipe, folder, workload.auto_class)
    predicted = [workload, *workload.companions(recipe)]
    return [path for each in predicted for path in student.predict(each)]


def predict_diagnostics(recipe: Recipe, output_dir: str | Path, dataset_dir: str | Path | None) -> RunResult:
    """Predicts AX, with a student of MNLI, into `predict_results_ax.txt`.

    Raises: `DistillationError` if there is no student, or it has other labels; `DataError` for the data.
    """
    workload = load_diagnostics(recipe, dataset_dir)
    folder = RunFolder(output_dir)
    student = _Student(recipe, folder, workload.auto_class)
    return RunResult(folder.path, predictions=tuple(student.predict(workload)))


def evaluate_alone(recipe: Recipe, folder: RunFolder, *, evaluate: bool, predict: bool) -> RunResult:
    """Evaluates the student in the folder, or the recipe's own, on its own; writes `eval_results.json`."""
    source = _source(recipe, folder)
    workload = load_workload(folder.pinned(recipe), train=False, predict=predict, student=source)
    if workload.judged_by_objectives:
        raise DistillationError(
            f"{folder.path}: a model without a head has nothing to evaluate by itself; its training is judged by the "
            "objectives, at its end (--do_train)."
        )
    student = _Student(recipe, folder, workload.auto_class)
    result = student.evaluate(workload) if evaluate else RunResult(folder.path)
    if predict:
        result = replace(result, predictions=tuple(predict_tests(recipe, folder, workload)))
    return result


def evidence_of(recipe: Recipe, output_dir: str | Path) -> tuple[str, Evidence]:
    """The reported metric of the student in a folder, or else of the recipe's own, and what it is made of.

    Raises: `DistillationError` where nothing is reported row by row, as of models without a head.
    """
    folder = RunFolder(output_dir)
    workload = load_workload(folder.pinned(recipe), train=False, student=_source(recipe, folder))
    split = workload.reported_split
    student = _Student(recipe, folder, workload.auto_class)
    found = workload.evidence(split, student.answers(workload, (split,)).kept[split])
    if found is None:
        raise DistillationError(f"{workload.name} is not answered row by row, so that models could be compared.")
    return workload.metrics[0], found


def _source(recipe: Recipe, folder: RunFolder) -> str | None:
    """Where a trained student is: in the folder of a run, or else where the recipe says."""
    return str(folder.path) if (folder.path / "config.json").is_file() else recipe.student.model


class _Student:
    """A trained student, from the folder of a run, or else from where the recipe says."""

    def __init__(self, recipe: Recipe, folder: RunFolder, auto_class: str) -> None:
        self.recipe, self.folder = recipe, folder
        source = _source(recipe, folder)
        if source is None:
            raise DistillationError(
                f"{folder.path} holds no student to evaluate or predict with; train it first (--do_train), or name a "
                "trained one (--student_name_or_path)."
            )
        self.source = source
        self.model: PreTrainedModel = models.load_finished(source, auto_class, "student", recipe.student)
        self.tokenizer: PreTrainedTokenizerBase = models.plain_tokenizer(
            source, "student", recipe.student.trust_remote_code
        )
        self.limits = models.limits(recipe, self.model)  # before it is fitted: a finished one is read as it was saved

    def answers(self, workload: Workload, splits: tuple[str, ...]) -> Answers:
        columns = workload.fit(self.model, "student")
        workload.check_reading(self.model, self.tokenizer, "student")
        read = workload.read(copy.deepcopy(self.tokenizer), self.limits, splits)
        arguments = evaluation_arguments(
            self.recipe.stages[-1].arguments, self.folder.path, self.recipe.seed, "evaluation"
        )
        return answer(self.model, self.tokenizer, read, workload, columns, arguments)

    def evaluate(self, workload: Workload) -> RunResult:
        answers = self.answers(workload, workload.evaluated_splits)
        summary = summarize(
            "student",
            "student",
            answers,
            workload,
            model=self.model,
            size_bytes=models.size_on_disk(self.source, self.model),
            teacher=None,
            latency=latency_of(self.model, self.tokenizer, workload, self.recipe.max_length),
            history=[],
        )
        metrics = results.all_metrics(answers, summary, workload)
        if is_main_process():
            results.write_results(self.folder, eval=metrics)
        wait_for_everyone()
        notes = results.notes_of(workload, {"student": answers})
        return RunResult(self.folder.path, workload.reported_split, workload.metrics[0], (summary,), metrics, notes)

    def predict(self, workload: Predicting) -> list[Path]:
        """One file a test split; the paths."""
        found = self.answers(workload, workload.test_splits)
        written = []
        for split, kept in found.kept.items():
            name, text = workload.predictions(split, kept)
            written.append(self.folder.path / name)
            if is_main_process():
                write_whole(self.folder.path / name, text)
        wait_for_everyone()
        return written
