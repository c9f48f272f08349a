"""Everything a run needs, loaded and checked before anything is trained or written."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.activations import Signal
from hf_distill.distillation import Distillation
from hf_distill.objectives import Labels, Terms
from hf_distill.recipe import Recipe, TrainGroup
from hf_distill.run import models
from hf_distill.run.augmenting import Augmenter
from hf_distill.run.caching import check_cache
from hf_distill.run.folder import RunFolder
from hf_distill.run.labels import Columns
from hf_distill.run.measuring import by_length, metrics_of
from hf_distill.run.record import Losses
from hf_distill.run.stages import Inputs, Job, Learned, check_stage, hand_on
from hf_distill.run.workload import Limits, Rows, Workload


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

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return all(job.mark is not None for job in self.all)


@dataclass
class Setup:
    """What was prepared. `teacher` is the one loaded, not yet trained where a job for that is left."""

    recipe: Recipe
    folder: RunFolder
    workload: Workload
    jobs: Jobs
    tokenizer: PreTrainedTokenizerBase
    splits: Mapping[str, Rows]
    teacher: PreTrainedModel | None
    columns: Columns
    limits: Limits
    augmenter: Augmenter | None = None
    signals: frozenset[Signal] = frozenset()
    """All that the stages read of the teacher."""
    losses: Losses = field(default_factory=lambda: Losses([], {}))

    def release_teacher(self) -> None:
        """Lets the teacher go, to be loaded again by `recover_teacher`."""
        self.teacher = None

    def recover_teacher(self) -> PreTrainedModel | None:
        """The teacher, loaded again if it was let go."""
        if self.teacher is None:
            self.teacher = _teacher(self.recipe, self.workload, self.jobs)
            if self.teacher is not None:
                self.workload.fit(self.teacher, "teacher")
        return self.teacher

    def student(self) -> PreTrainedModel:
        """The student before training, with the task's labels."""
        self.recover_teacher()
        model = models.make_student(self.recipe, self.workload, self.teacher, self.tokenizer)
        self.workload.fit(model, "student")
        return model

    def inputs(self, columns: Columns) -> Inputs:
        """The data of a model whose classes stand in `columns`."""
        workload, split = self.workload, self.workload.evaluated_splits[0]
        rows, order = by_length(workload.in_model_order(self.splits[split], columns))
        return Inputs(
            train=workload.in_model_order(self.splits["train"], columns),
            validation=rows,
            tokenizer=self.tokenizer,
            collator=workload.collator(self.tokenizer),
            metrics=None if workload.judged_by_objectives else metrics_of(workload, split, rows, order, columns),
            reduce=workload.reduce,
        )

    def augmented_rows(self) -> Rows:
        """The training rows with the variants that `augmenter` makes of them, in the student's order of classes."""
        augmenter, place = self.augmenter, self.jobs.student[0].arguments().device
        assert augmenter is not None
        workload = self.workload.augmented(
            lambda rows, text_columns: augmenter.stored(rows, text_columns, self.folder.stages, place)
        )
        self.augmenter = None  # and its model goes
        rows = workload.read(copy.deepcopy(self.tokenizer), self.limits, ["train"])["train"]
        return workload.in_model_order(rows, self.columns)


def plan(recipe: Recipe, folder: RunFolder) -> Jobs:
    """The training runs of a recipe, each in its folder."""
    students = tuple(
        Job(
            f"stage {stage.name!r}",
            folder.stage(i, stage.name),
            stage.arguments,
            recipe.seed,
            stage.terms,
            _groups(stage.train),
            stage.rows == "augmented",
            stage.tokens_per_batch,
        )
        for i, stage in enumerate(recipe.stages, start=1)
    )
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
    if recipe.control:
        control = Job(
            "control",
            folder.control,
            last.arguments,
            recipe.seed,
            _labels_alone,
            _groups(last.train),
            tokens_per_batch=last.tokens_per_batch,
        )
    return Jobs(students, teacher, control)


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
    student = models.make_student(recipe, workload, teacher, tokenizer)
    columns = workload.fit(student, "student")
    limits = models.limits(recipe, teacher, student)
    splits = workload.read(copy.deepcopy(tokenizer), limits)
    setup = Setup(recipe, folder, workload, jobs, tokenizer, splits, teacher, columns, limits)
    if any(job.augmented and job.mark is None for job in jobs.student):
        setup.augmenter = Augmenter.of(recipe)
        workload.augmented(setup.augmenter.first)
    setup.losses = _check_jobs(setup, student)
    return setup


def _check_jobs(setup: Setup, student: PreTrainedModel) -> Losses:
    """Makes every job's trainer once, and hands on what terms would have learned."""
    jobs, inputs = setup.jobs, setup.inputs(setup.columns)
    if jobs.teacher is not None and jobs.teacher.mark is None and setup.teacher is not None:
        check_stage(jobs.teacher, setup.teacher, None, setup.inputs(setup.workload.fit(setup.teacher, "teacher")))
    bound: dict[str, Distillation] = {}
    learned: Learned = {}
    for stage, job in zip(setup.recipe.stages, jobs.student, strict=True):
        bound[stage.name] = check_stage(job, student, setup.teacher, inputs)
        hand_on(learned, bound[stage.name].objectives, job.title)
        learned |= bound[stage.name].objectives.state_dict()
        setup.signals |= bound[stage.name].needs().teacher
    check_cache(setup.recipe, setup.teacher, bound)
    if jobs.control is not None:
        check_stage(jobs.control, student, None, inputs)
    return Losses.of(bound)


def _teacher(recipe: Recipe, workload: Workload, jobs: Jobs) -> PreTrainedModel | None:
    if recipe.teacher is None:
        return None
    if jobs.teacher is not None and jobs.teacher.mark is not None:
        return models.load_finished(jobs.teacher.folder, workload.auto_class, "teacher", recipe.teacher)
    return models.load_teacher(recipe, workload)
