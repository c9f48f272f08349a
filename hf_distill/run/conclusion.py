"""After training: the comparison of teacher, student and control, and everything that is left in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from hf_distill.evaluation.summary import RunSummary
from hf_distill.hub.record import WEIGHT_FILES, ModelFacts, sha256_of_files
from hf_distill.run import models, record, results
from hf_distill.run.folder import is_main_process
from hf_distill.run.labels import align_labels
from hf_distill.run.measuring import Answers, Role, answer, interval_of, key_of, latency_of, summarize
from hf_distill.run.preparation import Setup
from hf_distill.run.results import RunResult
from hf_distill.run.training import finished_student


def conclude(setup: Setup, *, evaluate: bool, command: Sequence[str], repo_id: str | None) -> RunResult:
    """Evaluates, and writes the student, its results, record, card and report; the main process alone writes."""
    student = finished_student(setup, setup.jobs.student[-1])
    compared = _Comparison(setup)
    if evaluate:
        compared.add_all(student)
    result = compared.result()
    if is_main_process():
        folder = setup.folder
        folder.take_student(setup.jobs.student[-1].folder)
        trained = (setup.jobs.student[-1].mark or {}).get("metrics", {})
        results.write_results(folder, train=trained, **({"eval": compared.flat()} if evaluate else {}))
        record.write_record(folder, _story(setup, compared, command), student, repo_id)
        if result.runs:
            results.write_pictures(folder, result)
        folder.keep_results(result.to_dict())
    return result


class _Comparison:
    """The models on the same rows: teacher first, as the others are compared with it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.answers: dict[Role, Answers] = {}
        self.summaries: dict[Role, RunSummary] = {}

    def add_all(self, student: PreTrainedModel) -> None:
        setup, jobs = self.setup, self.setup.jobs
        if setup.teacher is not None and setup.recipe.teacher is not None:
            trained = [jobs.teacher] if jobs.teacher is not None else []
            path = trained[0].folder if trained else models.teacher_path(setup.recipe.teacher)
            history = [entry for job in trained for entry in job.history]
            self._add("teacher", setup.teacher, models.size_on_disk(path, setup.teacher), history)
        history = [entry for job in jobs.student for entry in job.history]
        self._add("student", student, models.size_on_disk(jobs.student[-1].folder, student), history)
        if jobs.control is not None:
            control = models.load_finished(jobs.control.folder, "control", setup.recipe.student)
            self._add("control", control, models.size_on_disk(jobs.control.folder, control), jobs.control.history)

    def _add(self, role: Role, model: PreTrainedModel, size: int, history: list[dict[str, object]]) -> None:
        setup, corpus = self.setup, self.setup.corpus
        columns = align_labels(model, role, corpus.text)
        splits = {name: setup.splits[name] for name in corpus.evaluated_splits}
        arguments = setup.jobs.student[-1].evaluation_arguments()
        self.answers[role] = answer(model, setup.tokenizer, splits, corpus, columns, arguments)
        self.summaries[role] = summarize(
            role,
            role,
            self.answers[role],
            corpus,
            model=model,
            size_bytes=size,
            teacher=None if role == "teacher" else self.answers.get("teacher"),
            latency=latency_of(model, setup.tokenizer, corpus, setup.recipe.max_length),
            history=history,
        )

    def metrics(self, role: Role) -> dict[str, float]:
        return results.all_metrics(self.answers[role], self.summaries[role], self.setup.corpus)

    def flat(self) -> dict[str, float]:
        """The student's metrics under their own names, those of the others under `teacher_…` and `control_…`."""
        found: dict[str, float] = {}
        for role in self.answers:
            prefix = "" if role == "student" else f"{role}_"
            found |= {f"{prefix}{name}": value for name, value in self.metrics(role).items()}
        return found

    def intervals(self) -> Mapping[Role, dict[str, tuple[float, float]]]:
        corpus = self.setup.corpus
        found: dict[Role, dict[str, tuple[float, float]]] = {}
        for role, answers in self.answers.items():
            each = {split: interval_of(answers, corpus, split) for split in corpus.evaluated_splits}
            found[role] = {
                key_of("accuracy", split): interval for split, interval in each.items() if interval is not None
            }
        return found

    def result(self) -> RunResult:
        setup = self.setup
        if not self.answers:
            return RunResult(setup.folder.path)
        return RunResult(
            setup.folder.path,
            split=setup.corpus.reported_split,
            metric=setup.corpus.metrics[0],
            runs=tuple(self.summaries.values()),
            metrics=self.metrics("student"),
            notes=results.notes_of(setup.corpus, self.answers),
        )


def _story(setup: Setup, compared: _Comparison, command: Sequence[str]) -> record.Story:
    return record.Story(
        command=command,
        recipe=setup.recipe,
        corpus=setup.corpus,
        jobs=setup.jobs.student,
        losses=setup.losses,
        teacher=_teacher_facts(setup),
        metrics={role: compared.metrics(role) for role in compared.answers},
        intervals=compared.intervals(),
    )


def _teacher_facts(setup: Setup) -> ModelFacts | None:
    """The teacher by the name of what it was loaded from; of one that was trained here, the sums of its own files."""
    if setup.teacher is None or setup.recipe.teacher is None:
        return None
    facts = ModelFacts.of(setup.teacher, models.teacher_path(setup.recipe.teacher))
    if setup.jobs.teacher is None:
        return facts
    return facts.model_copy(update={"files": sha256_of_files(setup.jobs.teacher.folder, WEIGHT_FILES)})
