"""Everything a run needs, loaded and checked before anything is trained or written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.activations import Signal
from hf_distill.checkpoints import known_differences
from hf_distill.distillation import Distillation
from hf_distill.hub.record import CutFacts
from hf_distill.objectives import Labels, Terms
from hf_distill.recipe import Recipe, Stage, Student, TrainGroup
from hf_distill.recipe.rules.kept import REFERENCE
from hf_distill.recipe.rules.stages import PREVIOUS
from hf_distill.runs import models
from hf_distill.runs.abilities import Augmentable, Retargetable, Sources
from hf_distill.runs.augmenting import Augmenter
from hf_distill.runs.caching import check_cache
from hf_distill.runs.chains import advise_chains, advise_exemplars, unfinished_teacher
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.generating import learned_sounds, learned_targets, read_by_teacher
from hf_distill.runs.labels import Columns
from hf_distill.runs.measuring import by_length, metrics_of
from hf_distill.runs.record import Losses
from hf_distill.runs.stages import Inputs, Job, Learned, check_stage, hand_on
from hf_distill.runs.workload import Limits, Rows, Workload


@dataclass(frozen=True)
class Jobs:
    """The training runs of a recipe: the teacher's if it is trained here, the student's, the control's if asked
    for.
    """

    student: tuple[Job, ...]
    teacher: Job | None = None
    control: Job | None = None

    @property
    def all(self) -> tuple[Job, ...]:
        """In the order in which they run."""
        return tuple(job for job in (self.teacher, *self.student, self.control) if job is not None)

    def each(self, change: Callable[[Job], Job]) -> Jobs:
        """The same jobs, each of them changed."""
        students = tuple(map(change, self.student))
        return Jobs(students, *(None if job is None else change(job) for job in (self.teacher, self.control)))

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return all(job.mark is not None for job in self.all)


@dataclass
class Setup:
    """What was prepared. `teacher` is the one loaded, not yet trained where a job for that is left; of several it is
    the first, and `members` are the others.
    """

    recipe: Recipe
    folder: RunFolder
    workload: Workload
    jobs: Jobs
    tokenizer: PreTrainedTokenizerBase
    splits: Mapping[str, Rows]
    teacher: PreTrainedModel | None
    limits: Limits
    augmenter: Augmenter | None = None
    signals: frozenset[Signal] = frozenset()
    """All that the stages read of the teacher."""
    losses: Losses = field(default_factory=lambda: Losses([], {}))
    members: dict[str, PreTrainedModel] = field(default_factory=dict)
    cuts: dict[str, CutFacts] = field(default_factory=dict)
    """What was measured to cut the students that stages start with, by the stage's name."""
    augmented: Rows | None = None
    """The augmented rows, once a stage has asked for them."""
    sources: Sources | None = None
    """What the teacher reads to write, once that was asked for."""
    _inputs: dict[tuple[Columns, bool, str], Inputs] = field(default_factory=dict)

    def release_teacher(self) -> None:
        """Lets the teacher go, to be loaded again by `recover_teacher`."""
        self.teacher = None
        self.members = {}

    def all_members(self) -> dict[str, PreTrainedModel]:
        """Every one of several teachers by its name; empty for one teacher, and for none."""
        teacher, section = self.recover_teacher(), self.recipe.teacher
        if teacher is None or section is None or section.ensemble is None:
            return {}
        if not self.members:
            self.members = models.load_members(self.recipe, self.workload)
        return {next(iter(section.ensemble.members)): teacher, **self.members}

    def recover_teacher(self) -> PreTrainedModel | None:
        """The teacher, loaded again if it was let go."""
        if self.teacher is None:
            self.teacher = _teacher(self.recipe, self.workload, self.jobs)
            if self.teacher is not None:
                self.workload.fit(self.teacher, "teacher")
        return self.teacher

    def student(self, section: Student | None = None) -> PreTrainedModel:
        """The student before training, the recipe's or that of a section, with the task's labels."""
        self.recover_teacher()
        model = models.make_student(self.recipe, self.workload, self.teacher, self.tokenizer, section)
        self.workload.fit(model, "student")
        return model

    def inputs(self, columns: Columns, augmented: bool = False, targets: str = REFERENCE) -> Inputs:
        """The data of a model whose classes stand in `columns`, with the training rows or the augmented ones, or with
        `targets` that the teacher writes.
        """
        key = (columns, augmented, targets)
        if key not in self._inputs:
            self._inputs[key] = self._new_inputs(*key)
        return self._inputs[key]

    def _new_inputs(self, columns: Columns, augmented: bool, targets: str) -> Inputs:
        workload, split = self.workload, self.workload.evaluated_splits[0]
        if targets != REFERENCE:
            return replace(self.inputs(columns), train=self._written_rows(targets))
        if augmented:
            self.augmented = self._augmented_rows() if self.augmented is None else self.augmented
            return replace(self.inputs(columns), train=workload.in_model_order(self.augmented, columns))
        rows, order = by_length(workload.in_model_order(self.splits[split], columns))
        return Inputs(
            train=workload.in_model_order(self.splits["train"], columns),
            validation=rows,
            processing=workload.saved_with(self.tokenizer),
            collator=workload.collator(self.tokenizer),
            metrics=None if workload.judged_by_objectives else metrics_of(workload, split, rows, order, columns),
            reduce=None if workload.in_words else workload.reduce,
            in_words=workload.in_words,
        )

    def _written_rows(self, targets: str) -> Rows:
        """The training rows with targets that the teacher writes."""
        given, place = self.workload, self.jobs.student[0].arguments().device
        if not isinstance(given, Retargetable):
            return learned_sounds(self, targets, place)
        read = read_by_teacher(self, given)
        workload = given.retargeted(lambda rows, column: learned_targets(self, rows, read, column, targets, place))
        rows: Rows = workload.read(copy.deepcopy(self.tokenizer), self.limits, ["train"])["train"]
        return rows

    def _augmented_rows(self) -> Rows:
        """The training rows with the variants that `augmenter` makes of them, in the data's order of classes."""
        augmenter, place = self.augmenter, self.jobs.student[0].arguments().device
        assert augmenter is not None
        assert isinstance(self.workload, Augmentable)
        workload = self.workload.augmented(
            lambda rows, text_columns: augmenter.stored(rows, text_columns, self.folder.stages, place)
        )
        self.augmenter = None  # and its model goes
        rows: Rows = workload.read(copy.deepcopy(self.tokenizer), self.limits, ["train"])["train"]
        return rows


def plan(recipe: Recipe, folder: RunFolder, resume_despite: Collection[str] = ()) -> Jobs:
    """The training runs of a recipe, each in its folder; `resume_despite` is for all of them."""
    jobs = _planned(recipe, folder)
    allowed = known_differences(resume_despite)
    return jobs if not allowed else jobs.each(lambda job: replace(job, resume_despite=allowed))


def _planned(recipe: Recipe, folder: RunFolder) -> Jobs:
    students: dict[str, Job] = {}
    for number, stage in enumerate(recipe.stages, start=1):
        students[stage.name] = _student_job(recipe, folder, stage, number, students)
    last = recipe.stages[-1]
    teacher = control = None
    if recipe.teacher is not None and recipe.teacher.fine_tune is not None:
        first = recipe.teacher.fine_tune
        place = folder.stage(0, "teacher")
        teacher = Job(
            "teacher.fine_tune",
            place,
            first.arguments,
            recipe.seed,
            _labels_alone,
            tokens_per_batch=first.tokens_per_batch,
        )
    if recipe.control and (recipe.data is None or recipe.data.embeddings is None):
        control = Job(
            "control",
            folder.control,
            last.arguments,
            recipe.seed,
            _labels_alone,
            _groups(last.train),
            last.rows == "augmented",
            tokens_per_batch=last.tokens_per_batch,
            starts=start_of(tuple(students.values())),
            grid=last.quantize_uniform,
            lora=last.lora,
        )
    return Jobs(tuple(students.values()), teacher, control)


def _student_job(recipe: Recipe, folder: RunFolder, stage: Stage, number: int, earlier: Mapping[str, Job]) -> Job:
    starts = recipe.student if stage.student == "fresh" or (number == 1 and stage.student is None) else stage.student
    before = next(reversed(list(earlier.values())), None)
    return Job(
        f"stage {stage.name!r}",
        folder.stage(number, stage.name),
        stage.arguments,
        recipe.seed,
        stage.terms,
        _groups(stage.train),
        stage.rows == "augmented",
        stage.tokens_per_batch,
        starts,
        before if stage.teacher == PREVIOUS else earlier.get(stage.teacher or ""),
        stage.quantize_uniform or stage.quantize_points,
        stage.targets,
        lora=stage.lora,
        on_policy=None if stage.on_policy is None else stage.on_policy.made(),
    )


def start_of(jobs: Sequence[Job]) -> Student | None:
    """The student that the last of some jobs goes back to."""
    return next((job.starts for job in reversed(jobs) if job.starts is not None), None)


def _groups(train: str | list[TrainGroup]) -> tuple[TrainGroup, ...]:
    return tuple(train) if isinstance(train, list) else ()


def _labels_alone() -> Terms:
    return Terms.of(Labels())


def prepare(recipe: Recipe, folder: RunFolder, workload: Workload, jobs: Jobs) -> Setup:
    """Loads models and tokenizer, reads the texts, and binds every stage once.

    Raises: `DistillationError` and its kinds for whatever does not fit; nothing has been written then.
    """
    for job in jobs.all:
        job.arguments()  # before the models are loaded
    tokenizer = models.load_tokenizer_of(recipe, workload)
    teacher = _teacher(recipe, workload, jobs)
    if teacher is not None:
        workload.fit(teacher, "teacher")
    if teacher is not None and jobs.teacher is not None:
        models.ends_with(teacher, workload.ends(tokenizer))
    members = models.load_members(recipe, workload)
    made = {
        job.title: models.made_student(recipe, workload, teacher, tokenizer, job.starts)
        for job in jobs.student
        if job.starts is not None
    }
    students = {title: each.student for title, each in made.items()}
    for student in students.values():
        workload.fit(student, "student")
    readers = {"teacher": teacher, **{f"teacher {name!r}": member for name, member in members.items()}}
    for role, model in [*readers.items(), *(("student", student) for student in students.values())]:
        if model is not None:
            workload.check_reading(model, tokenizer, role)
    limits = _with_columns(models.limits(recipe, teacher, *members.values(), *students.values()), jobs)
    splits = workload.read(copy.deepcopy(tokenizer), limits)
    setup = Setup(recipe, folder, workload, jobs, tokenizer, splits, teacher, limits, members=members)
    setup.cuts = {
        stage.name: each.cut
        for stage, job in zip(recipe.stages, jobs.student, strict=True)
        if (each := made.get(job.title)) is not None and each.cut is not None
    }
    if isinstance(workload, Augmentable) and any(job.augmented and job.mark is None for job in jobs.student):
        setup.augmenter = Augmenter.of(recipe)
        workload.augmented(setup.augmenter.first)
    if isinstance(workload, Retargetable) and any(j.targets != REFERENCE and j.mark is None for j in jobs.student):
        read_by_teacher(setup, workload)  # so that what is wrong with it is told before training
    setup.losses = _check_jobs(setup, students)
    return setup


def _with_columns(limits: Limits, jobs: Jobs) -> Limits:
    """The inputs of the models, and the columns that terms read beside them."""
    read = {column for job in jobs.student for term in job.terms() for column in term.objective.columns}
    return limits._replace(input_names=limits.input_names | read)


def _check_jobs(setup: Setup, students: Mapping[str, PreTrainedModel]) -> Losses:
    """Makes every job's trainer once, and hands on what terms would have learned; `students` are those that jobs start
    with, by the job's title."""
    jobs = setup.jobs
    student = students[jobs.student[0].title]
    if jobs.teacher is not None and jobs.teacher.mark is None and setup.teacher is not None:
        check_stage(jobs.teacher, setup.teacher, None, setup.inputs(setup.workload.fit(setup.teacher, "teacher")))
    bound: dict[str, Distillation] = {}
    made: dict[str, PreTrainedModel] = {}
    learned: Learned = {}
    for stage, job in zip(setup.recipe.stages, jobs.student, strict=True):
        if job.starts is not None:
            student, learned = students[job.title], {}
        made[job.title] = student
        teacher = unfinished_teacher(setup, job, made)
        bound[stage.name] = check_stage(job, student, teacher, setup.inputs(setup.workload.fit(student, "student")))
        hand_on(learned, bound[stage.name].objectives, job.title)
        learned |= bound[stage.name].objectives.state_dict()
    stages = zip(setup.recipe.stages, jobs.student, strict=True)
    of_recipe = {stage.name: bound[stage.name] for stage, job in stages if job.learns_from is None}
    for distillation in of_recipe.values():
        setup.signals |= distillation.needs().teacher
    check_cache(setup.recipe, setup.teacher, of_recipe)
    advise_chains(setup.teacher, jobs.student, made)
    advise_exemplars(setup.recipe, bound)
    if jobs.control is not None:
        check_stage(jobs.control, student, None, setup.inputs(setup.workload.fit(student, "student")))
    return Losses.of(bound)


def _teacher(recipe: Recipe, workload: Workload, jobs: Jobs) -> PreTrainedModel | None:
    if models.leading(recipe) is None:
        return None
    if jobs.teacher is not None and jobs.teacher.mark is not None:
        return models.load_finished(jobs.teacher.folder, workload.auto_class, "teacher", recipe.teacher)
    return models.load_teacher(recipe, workload)
