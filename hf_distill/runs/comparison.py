"""Teacher, student and control on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from hf_distill.evaluation.summary import RunSummary
from hf_distill.model_sizes import num_parameters
from hf_distill.runs import models, results
from hf_distill.runs.measuring import Answers, Role, answer, key_of, latency_of, summarize
from hf_distill.runs.preparation import Setup, start_of
from hf_distill.runs.results import RunResult
from hf_distill.runs.stages import Job


class Comparison:
    """The models on the same rows: teacher first, as the others are compared with it."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.answers: dict[Role, Answers] = {}
        self.summaries: dict[Role, RunSummary] = {}
        self.old_classes: list[int] = []

    def add_all(self, student: PreTrainedModel) -> None:
        setup, jobs = self.setup, self.setup.jobs
        section = models.leading(setup.recipe)
        if setup.teacher is not None and section is not None:
            trained = [jobs.teacher] if jobs.teacher is not None else []
            path = trained[0].folder if trained else models.teacher_path(section)
            history = [entry for job in trained for entry in job.history]
            self._add("teacher", setup.teacher, models.size_on_disk(path, setup.teacher), history)
        history = [entry for job in jobs.student for entry in job.history]
        self._add("student", student, models.size_on_disk(jobs.student[-1].folder, student), history)
        if jobs.control is not None:
            control = models.load_finished(
                jobs.control.folder, setup.workload.auto_class, "control", setup.recipe.student
            )
            self._add("control", control, models.size_on_disk(jobs.control.folder, control), jobs.control.history)
        elif setup.recipe.control and not setup.workload.control_trains:
            untrained = setup.student(start_of(jobs.student))
            self._add("control", untrained, models.size_on_disk(jobs.student[-1].folder, untrained), [])

    def add_judged(self, student: PreTrainedModel) -> None:
        """The student by the value of its objectives alone, where training looked at it."""
        job = self.setup.jobs.student[-1]
        value = objectives_value(self.setup).get("eval_loss")
        if value is not None:
            self.summaries["student"] = RunSummary(
                name="student",
                role="student",
                metrics={self.setup.workload.metrics[0]: value},
                parameters=num_parameters(student),
                size_bytes=models.size_on_disk(job.folder, student),
                history=[entry for each in self.setup.jobs.student for entry in each.history],
            )

    def _add(self, role: Role, model: PreTrainedModel, size: int, history: list[dict[str, object]]) -> None:
        setup, workload = self.setup, self.setup.workload
        columns = workload.fit(model, role)
        if -1 in columns:
            self.old_classes = [i for i, column in enumerate(columns) if column >= 0]
        splits = {name: workload.as_read_by(role, setup.splits[name]) for name in workload.evaluated_splits}
        arguments = setup.jobs.student[-1].evaluation_arguments()
        own = workload.teachers_tokenizer
        tokenizer = setup.tokenizer if own is None or role != "teacher" else own
        teacher = setup.teacher if own is None and role != "teacher" else None
        self.answers[role] = answer(model, tokenizer, splits, workload, columns, arguments, teacher)
        self.summaries[role] = summarize(
            role,
            role,
            self.answers[role],
            workload,
            model=model,
            size_bytes=size,
            teacher=None if role == "teacher" else self.answers.get("teacher"),
            latency=latency_of(model, tokenizer, workload, setup.recipe.max_length),
            history=history,
        )

    def metrics(self, role: Role) -> dict[str, float]:
        found = results.all_metrics(self.answers[role], self.summaries[role], self.setup.workload)
        return found | self._on_old_classes(role)

    def _on_old_classes(self, role: Role) -> dict[str, float]:
        """Where the teacher has some classes alone, the accuracy between these on their rows: the teacher's is that of
        before the labels grew, the student's that of after."""
        workload, answers = self.setup.workload, self.answers[role]
        found = {
            key_of("old_labels_accuracy", split): workload.accuracy_among(split, answers.kept[split], self.old_classes)
            for split in workload.evaluated_splits
            if self.old_classes
        }
        return {name: value for name, value in found.items() if value is not None}

    def flat(self) -> dict[str, float]:
        """The student's metrics under their own names, those of the others under `teacher_…` and `control_…`. Where
        training is judged by its objectives, their value at the end of the last stage."""
        found: dict[str, float] = objectives_value(self.setup) if self.setup.workload.judged_by_objectives else {}
        for role in self.answers:
            prefix = "" if role == "student" else f"{role}_"
            found |= {f"{prefix}{name}": value for name, value in self.metrics(role).items()}
        return found

    def intervals(self) -> Mapping[Role, dict[str, tuple[float, float]]]:
        workload = self.setup.workload
        found: dict[Role, dict[str, tuple[float, float]]] = {}
        for role, answers in self.answers.items():
            found[role] = {}
            for split in workload.evaluated_splits:
                interval = workload.interval(split, answers.kept[split])
                if interval is not None:
                    found[role][key_of(workload.metrics[0], split)] = interval
        return found

    def _of_control(self) -> Sequence[str]:
        """How long each trained, where the student had more than the control: what that gave is not the teacher's."""
        jobs = self.setup.jobs
        if jobs.control is None or "control" not in self.answers:
            return ()
        start = max((i for i, job in enumerate(jobs.student) if job.starts is not None), default=0)
        alone, taught = _steps(jobs.control), sum(map(_steps, jobs.student[start:]))
        if taught == alone:
            return ()
        return (
            f"The control trained as the last stage does, for {alone:,} steps; the student's stages made {taught:,}. "
            "What the further steps gave is in the difference, too.",
        )

    def _of_several(self) -> Sequence[str]:
        """Which of several teachers stands in the table."""
        several = None if self.setup.recipe.teacher is None else self.setup.recipe.teacher.ensemble
        if several is None:
            return ()
        names = list(several.members)
        return (f"Teacher: {names[0]!r}, the first of {len(names)} ({', '.join(names)}) that taught the student.",)

    def _of_old_labels(self) -> Sequence[str]:
        """How well the labels that the teacher had are told from each other, before and after."""
        key = key_of("old_labels_accuracy", self.setup.workload.reported_split)
        found = {role: self._on_old_classes(role).get(key) for role in self.answers}
        told = [f"{role} {value:.3f}" for role, value in found.items() if value is not None]
        return (f"Old labels: accuracy between these on their rows, {', '.join(told)}.",) if told else ()

    def result(self) -> RunResult:
        setup = self.setup
        if not self.answers:
            found = self.flat()
            value = found.get("eval_loss")
            notes = () if value is None else (f"The objectives' weighted sum on the validation rows: {value:.6g}.",)
            return RunResult(
                setup.folder.path,
                split=setup.workload.reported_split if self.summaries else "",
                metric=setup.workload.metrics[0] if self.summaries else "",
                runs=tuple(self.summaries.values()),
                metrics=found,
                notes=notes,
            )
        return RunResult(
            setup.folder.path,
            split=setup.workload.reported_split,
            metric=setup.workload.metrics[0],
            runs=tuple(self.summaries.values()),
            metrics=self.metrics("student"),
            notes=(
                *results.notes_of(setup.workload, self.answers),
                *self._of_control(),
                *self._of_several(),
                *self._of_old_labels(),
            ),
        )


def _steps(job: Job) -> int:
    return int((job.mark or {}).get("steps", 0))


def objectives_value(setup: Setup) -> dict[str, float]:
    """What the objectives came to on the validation rows, at the end of the last stage."""
    metrics: Mapping[str, float] = (setup.jobs.student[-1].mark or {}).get("metrics", {})
    return {name: value for name, value in metrics.items() if name.startswith("eval_")}
