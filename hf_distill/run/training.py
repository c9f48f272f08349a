"""Trains what is not finished: the teacher, the student stage after stage, the control."""

from __future__ import annotations

from dataclasses import replace

from transformers import PreTrainedModel

from hf_distill.run import models
from hf_distill.run.caching import Teachers
from hf_distill.run.preparation import Setup
from hf_distill.run.stages import Job, Learned, read_learned, train_stage


def train_all(setup: Setup) -> None:
    """Runs the jobs of a recipe in order; what has its mark is skipped.

    A stage starts from what the one before left on disk, so that it does the same whether the run was broken off or
    not.
    """
    jobs = setup.jobs
    if jobs.finished:
        return
    if jobs.teacher is not None and jobs.teacher.mark is None:
        _train_teacher(setup, jobs.teacher)
    inputs = {False: setup.inputs(setup.columns)}  # by whether the rows are augmented
    teachers = Teachers(setup)
    learned: Learned = {}
    before: Job | None = None
    for job in jobs.student:
        if job.mark is None:
            student = setup.student() if before is None else finished_student(setup, before)
            if job.augmented not in inputs:
                inputs[job.augmented] = replace(inputs[False], train=setup.augmented_rows())
            teacher = teachers.of(job, student, inputs[job.augmented])
            train_stage(job, student, teacher, inputs[job.augmented], learned)
        learned |= read_learned(job)
        before = job
    if jobs.control is not None and jobs.control.mark is None:
        train_stage(jobs.control, setup.student(), None, inputs[False], {})
    setup.recover_teacher()  # it is compared with its students


def finished_student(setup: Setup, job: Job) -> PreTrainedModel:
    """The student that a finished stage left."""
    student = models.load_finished(job.folder, setup.workload.auto_class, "student", setup.recipe.student)
    setup.workload.fit(student, "student")
    return student


def _train_teacher(setup: Setup, job: Job) -> None:
    """Trains the teacher on the labels, and goes on with what is on disk."""
    if setup.teacher is None or setup.recipe.teacher is None:
        return
    columns = setup.workload.fit(setup.teacher, "teacher")
    train_stage(job, setup.teacher, None, setup.inputs(columns), {})
    setup.teacher = models.load_finished(job.folder, setup.workload.auto_class, "teacher", setup.recipe.teacher)
