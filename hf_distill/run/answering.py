"""A student that is there already: predictions of the tests, and an evaluation without its teacher."""

from __future__ import annotations

import copy
import logging
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import DistillationError
from hf_distill.recipe import Recipe
from hf_distill.run import models, results
from hf_distill.run.arguments import evaluation_arguments
from hf_distill.run.corpus import Corpus, load_corpus, load_diagnostics
from hf_distill.run.folder import RunFolder, is_main_process, wait_for_everyone
from hf_distill.run.labels import align_labels
from hf_distill.run.measuring import Answers, answer, latency_of, summarize
from hf_distill.run.results import RunResult

logger = logging.getLogger(__name__)

FILE_NAMES = {"test_mismatched": "mnli-mm", "test_matched": "mnli"}
"""Splits whose predictions are not named after the task."""

DIAGNOSTICS = "ax"


def predict_tests(recipe: Recipe, folder: RunFolder, corpus: Corpus) -> list[Path]:
    """Predicts the test splits with the student in the folder; for MNLI the AX set as well, where it is at hand."""
    student = _Student(recipe, folder)
    written = student.predict(corpus)
    if corpus.name == "mnli":
        place = None if recipe.dataset_dir is None else Path(recipe.dataset_dir) / DIAGNOSTICS
        if place is None or place.is_dir():
            written += student.predict(load_diagnostics(recipe, place))
        else:
            logger.warning("%s is not there; AX is not predicted.", place)
    return written


def predict_diagnostics(recipe: Recipe, output_dir: str | Path, dataset_dir: str | Path | None) -> RunResult:
    """Predicts AX, with a student of MNLI, into `predict_results_ax.txt`.

    Raises: `DistillationError` if there is no student, or it has other labels; `DataError` for the data.
    """
    corpus = load_diagnostics(recipe, dataset_dir)
    folder = RunFolder(output_dir)
    return RunResult(folder.path, predictions=tuple(_Student(recipe, folder).predict(corpus)))


def evaluate_alone(recipe: Recipe, folder: RunFolder, *, evaluate: bool, predict: bool) -> RunResult:
    """Evaluates the student in the folder, or the recipe's own, on its own; writes `eval_results.json`."""
    corpus = load_corpus(recipe, train=False, predict=predict)
    student = _Student(recipe, folder)
    result = student.evaluate(corpus) if evaluate else RunResult(folder.path)
    if predict:
        result = replace(result, predictions=tuple(predict_tests(recipe, folder, corpus)))
    return result


class _Student:
    """A trained student, from the folder of a run, or else from where the recipe says."""

    def __init__(self, recipe: Recipe, folder: RunFolder) -> None:
        self.recipe, self.folder = recipe, folder
        source = str(folder.path) if (folder.path / "config.json").is_file() else recipe.student.model
        if source is None:
            raise DistillationError(
                f"{folder.path} holds no student to evaluate or predict with; train it first (--do_train), or name a "
                "trained one (--student_name_or_path)."
            )
        self.source = source
        self.model: PreTrainedModel = models.load_finished(source, "student", recipe.student)
        self.tokenizer: PreTrainedTokenizerBase = models.plain_tokenizer(
            source, "student", recipe.student.trust_remote_code
        )

    def answers(self, corpus: Corpus, splits: tuple[str, ...]) -> Answers:
        columns = align_labels(self.model, "student", corpus.text)
        limits, names = models.reads(self.model)
        chosen = replace(
            corpus,
            text=replace(corpus.text, splits=type(corpus.text.splits)({s: corpus.text.splits[s] for s in splits})),
        )
        tokenized = chosen.tokenized(copy.deepcopy(self.tokenizer), self.recipe.max_length, limits, names)
        arguments = evaluation_arguments(
            self.recipe.stages[-1].arguments, self.folder.path, self.recipe.seed, "evaluation"
        )
        return answer(self.model, self.tokenizer, tokenized, corpus, columns, arguments)

    def evaluate(self, corpus: Corpus) -> RunResult:
        answers = self.answers(corpus, corpus.evaluated_splits)
        summary = summarize(
            "student",
            "student",
            answers,
            corpus,
            model=self.model,
            size_bytes=models.size_on_disk(self.source, self.model),
            teacher=None,
            latency=latency_of(self.model, self.tokenizer, corpus, self.recipe.max_length),
            history=[],
        )
        metrics = results.all_metrics(answers, summary, corpus)
        if is_main_process():
            results.write_results(self.folder, eval=metrics)
        wait_for_everyone()
        notes = results.notes_of(corpus, {"student": answers})
        return RunResult(self.folder.path, corpus.reported_split, corpus.metrics[0], (summary,), metrics, notes)

    def predict(self, corpus: Corpus) -> list[Path]:
        """One file a test split; the paths."""
        found = self.answers(corpus, corpus.test_splits)
        written = []
        for split, logits in found.logits.items():
            name = FILE_NAMES.get(split, corpus.name if corpus.task is not None else split)
            if is_main_process():
                results.write_predictions(self.folder, name, logits, corpus.text.label_names)
            written.append(self.folder.path / f"predict_results_{name}.txt")
        wait_for_everyone()
        return written
