"""After training: the comparison of teacher, student and control, and everything that is left in the folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from hf_distill.evaluation.findings import Findings, Sample
from hf_distill.evaluation.language_models import samples
from hf_distill.evaluation.summary import RunSummary
from hf_distill.hub.license import license_of
from hf_distill.hub.record import WEIGHT_FILES, CacheFacts, ModelFacts, sha256_of_files
from hf_distill.ranks import is_main_process
from hf_distill.run import findings, models, record, results
from hf_distill.run.caching import cache_facts
from hf_distill.run.chains import finished_student
from hf_distill.run.measuring import Answers, Role, answer, key_of, latency_of, summarize
from hf_distill.run.preparation import Setup, start_of
from hf_distill.run.results import RunResult


def conclude(setup: Setup, *, evaluate: bool, command: Sequence[str], repo_id: str | None) -> RunResult:
    """Evaluates, and writes the student, its results, record, card and report; the main process alone writes."""
    student = finished_student(setup, setup.jobs.student[-1])
    compared = _Comparison(setup)
    if evaluate and setup.workload.judged_by_objectives:
        compared.add_judged(student)
    elif evaluate:
        compared.add_all(student)
    result = compared.result()
    if is_main_process():
        folder = setup.folder
        folder.take_student(setup.jobs.student[-1].folder)
        measured = (setup.jobs.student[-1].mark or {}).get("metrics", {})
        trained = {name: value for name, value in measured.items() if not name.startswith("eval_")}
        trained |= setup.workload.counted()
        results.write_results(folder, train=trained, **({"eval": compared.flat()} if evaluate else {}))
        record.write_record(folder, _story(setup, compared, command), student, repo_id)
        if result.runs:
            results.write_pictures(folder, result, compared.findings(student))
        folder.keep_results(result.to_dict())
    return result


class _Comparison:
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
        value = _objectives_value(self.setup).get("eval_loss")
        if value is not None:
            self.summaries["student"] = RunSummary(
                name="student",
                role="student",
                metrics={self.setup.workload.metrics[0]: value},
                parameters=sum(parameter.numel() for parameter in student.parameters()),
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
        found: dict[str, float] = _objectives_value(self.setup) if self.setup.workload.judged_by_objectives else {}
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

    def findings(self, student: PreTrainedModel) -> Findings:
        """What the report shows beside the table."""
        setup = self.setup
        found = findings.of_answers(setup.workload, self.answers)
        found = found.model_copy(update={"samples": self._samples(student)})
        if setup.teacher is None or setup.workload.teachers_tokenizer is not None:
            return found  # layers are compared, and attention is drawn, token by token
        seen = findings.of_models(
            student,
            setup.teacher,
            setup.tokenizer,
            setup.workload.texts(),
            setup.recipe.max_length,
            setup.losses.layer_maps,
        )
        return found.model_copy(update={"likeness": seen.likeness, "attention": seen.attention})

    def _samples(self, student: PreTrainedModel) -> list[Sample]:
        """What teacher and student write to the same prompts, where they write."""
        setup = self.setup
        prompts = setup.workload.prompts(setup.tokenizer, setup.limits)
        models_: dict[Role, PreTrainedModel] = {} if setup.teacher is None else {"teacher": setup.teacher}
        return samples({**models_, "student": student}, setup.tokenizer, prompts) if prompts else []

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
            notes=(*results.notes_of(setup.workload, self.answers), *self._of_several(), *self._of_old_labels()),
        )


def _story(setup: Setup, compared: _Comparison, command: Sequence[str]) -> record.Story:
    return record.Story(
        command=command,
        recipe=setup.recipe,
        workload=setup.workload,
        jobs=setup.jobs.student,
        losses=setup.losses,
        cuts=setup.cuts,
        teacher=_teacher_facts(setup),
        other_teachers=_other_teachers(setup),
        teacher_cache=_cache_facts(setup),
        metrics={role: compared.metrics(role) for role in compared.answers} or {"student": compared.flat()},
        intervals=compared.intervals(),
        latencies={role: found.latency for role, found in compared.summaries.items() if found.latency is not None},
    )


def _other_teachers(setup: Setup) -> list[ModelFacts]:
    """Of several teachers those beside the first."""
    several = None if setup.recipe.teacher is None else setup.recipe.teacher.ensemble
    if several is None:
        return []
    paths = {name: models.teacher_path(member) for name, member in several.members.items()}
    return [_facts(model, paths[name]) for name, model in list(setup.all_members().items())[1:]]


def _facts(model: PreTrainedModel, name_or_path: str) -> ModelFacts:
    """With the licence that its card states."""
    facts = ModelFacts.of(model, name_or_path)
    return facts.model_copy(update={"license": license_of(name_or_path, facts.revision)})


def _objectives_value(setup: Setup) -> dict[str, float]:
    metrics: Mapping[str, float] = (setup.jobs.student[-1].mark or {}).get("metrics", {})
    return {name: value for name, value in metrics.items() if name.startswith("eval_")}


def _cache_facts(setup: Setup) -> CacheFacts | None:
    found = cache_facts(setup.recipe, setup.folder)
    return None if found is None else CacheFacts(**found.told())


def _teacher_facts(setup: Setup) -> ModelFacts | None:
    """The teacher by the name of what it was loaded from; of one that was trained here, the sums of its own files."""
    section = models.leading(setup.recipe)
    if setup.teacher is None or section is None:
        return None
    facts = _facts(setup.teacher, models.teacher_path(section))
    if setup.jobs.teacher is None:
        return facts
    return facts.model_copy(update={"files": sha256_of_files(setup.jobs.teacher.folder, WEIGHT_FILES)})
