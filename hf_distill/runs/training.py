"""Trains what is not finished: the teacher, the student stage after stage, the control."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel, TrainerCallback

from hf_distill.runs import models
from hf_distill.runs.caching import Teachers
from hf_distill.runs.chains import finished_student
from hf_distill.runs.preparation import Setup
from hf_distill.runs.stages import Job, Learned, learned_after, train_stage


def train_all(setup: Setup, callbacks: Sequence[TrainerCallback] = ()) -> None:
    """Runs the jobs of a recipe in order; what has its mark is skipped. `callbacks` follow the stages of the student.

    A stage starts from what the one before left on disk, so that it does the same whether the run was broken off or
    not.
    """
    jobs = setup.jobs
    if jobs.finished:
        return
    if jobs.teacher is not None and jobs.teacher.mark is None:
        _train_teacher(setup, jobs.teacher)
    teachers = Teachers(setup)
    learned: Learned = {}
    before: Job | None = None
    for job in jobs.student:
        if job.starts is not None:
            learned = {}  # it was learned for another student
        if job.mark is None:
            student = _first_student(setup, job, before)
            inputs = setup.inputs(setup.workload.fit(student, "student"), job.augmented, job.targets)
            train_stage(job, student, teachers.of(job, student, inputs), inputs, learned, callbacks)
        learned = learned_after(job, learned)
        before = job
    if jobs.control is not None and jobs.control.mark is None:
        student = setup.student(jobs.control.starts)
        inputs = setup.inputs(setup.workload.fit(student, "student"), jobs.control.augmented)
        train_stage(jobs.control, student, None, inputs, {})
    setup.recover_teacher()  # it is compared with its students


def _first_student(setup: Setup, job: Job, before: Job | None) -> PreTrainedModel:
    """What a job starts with: a student of its own, or what the job before left."""
    if job.starts is not None or before is None:
        return setup.student(job.starts)
    return finished_student(setup, before)


def _train_teacher(setup: Setup, job: Job) -> None:
    """Trains the teacher on the labels, and goes on with what is on disk."""
    if setup.teacher is None or setup.recipe.teacher is None:
        return
    columns = setup.workload.fit(setup.teacher, "teacher")
    train_stage(job, setup.teacher, None, setup.inputs(columns), {})
    setup.teacher = models.load_finished(job.folder, setup.workload.auto_class, "teacher", setup.recipe.teacher)
