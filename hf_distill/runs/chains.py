"""Who teaches a stage: the recipe's teacher, of whatever kind, or the student of an earlier stage."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from hf_distill.distillation import Distillation
from hf_distill.loading import DTYPES
from hf_distill.model_sizes import num_parameters
from hf_distill.recipe import Recipe, Several
from hf_distill.runs import models
from hf_distill.runs.stages import Job
from hf_distill.teachers import AdapterOff, Cached, Ensemble, Frozen, MovingAverage, Peers, Teacher

if TYPE_CHECKING:
    from hf_distill.runs.preparation import Setup

logger = logging.getLogger(__name__)

GAP = 3.0
"""Below this ratio of the teacher's parameters to the student's there is no gap for an assistant to bridge."""


def finished_student(setup: Setup, job: Job) -> PreTrainedModel:
    """The student that a finished stage left."""
    student = models.load_finished(job.folder, setup.workload.auto_class, "student", setup.recipe.student)
    setup.workload.fit(student, "student")
    return student


def ensemble_of(section: Several, members: Mapping[str, Teacher]) -> Ensemble:
    """Several teachers, combined as a recipe says."""
    settings = section.model_dump(exclude={"members"})
    return Ensemble(members, **settings)


def peers_of(setup: Setup) -> Peers | None:
    """New models to train beside the student, each as the recipe's student is before training, but from another seed;
    None where the recipe has none."""
    section = None if setup.recipe.teacher is None else setup.recipe.teacher.peers
    if section is None:
        return None
    made = []
    for number in range(1, section.count + 1):
        model = models.make_student(setup.recipe, setup.workload, None, setup.tokenizer, number=number)
        setup.workload.fit(model, "student")
        made.append(model)
    return Peers(made, learning_rate=section.learning_rate)


def base_of(recipe: Recipe, job: Job) -> AdapterOff | None:
    """The student of a job without its adapters; None where it has none, and where the recipe has another teacher."""
    section = None if recipe.teacher is None else recipe.teacher.adapter_off
    return None if section is None or job.lora is None else AdapterOff(**section.model_dump())


def written_teacher(recipe: Recipe) -> Cached | None:
    """The teacher that is a folder alone; None where the recipe has another.

    Raises: `CacheMismatch` for a folder without a cache, or a damaged one.
    """
    section = recipe.teacher
    if section is None or section.cached is None:
        return None
    return Cached(Path(section.cached.folder).expanduser(), dtype=DTYPES[section.dtype] if section.dtype else None)


def unfinished_teacher(setup: Setup, job: Job, made: Mapping[str, PreTrainedModel]) -> Teacher | None:
    """The teacher of a job as far as it is known before anything is trained: of the shape and with the labels that it
    will have. `made` are the students of the jobs so far, by their titles."""
    section = setup.recipe.teacher
    if job.learns_from is not None:
        return Frozen(copy.deepcopy(made[job.learns_from.title]))
    if section is not None and section.moving_average is not None:
        return MovingAverage(**section.moving_average.model_dump())
    if section is not None and section.peers is not None:
        return peers_of(setup)
    if (written := written_teacher(setup.recipe)) is not None:
        return written
    if (base := base_of(setup.recipe, job)) is not None:
        return base
    if section is not None and section.ensemble is not None:
        return ensemble_of(section.ensemble, {name: Frozen(each) for name, each in setup.all_members().items()})
    return None if setup.teacher is None else Frozen(setup.teacher, tokenizer=setup.workload.teachers_tokenizer)


def advise_chains(teacher: PreTrainedModel | None, jobs: Sequence[Job], made: Mapping[str, PreTrainedModel]) -> None:
    """Warns of what makes little sense where a new student learns from that of an earlier stage: an assistant that is
    no size in between, and generations that repeat the seed.
    """
    sizes = {title: num_parameters(model) for title, model in made.items()}
    whole = None if teacher is None else num_parameters(teacher)
    for job in (job for job in jobs if job.learns_from is not None and job.starts is not None):
        assert job.learns_from is not None
        student, assistant = sizes[job.title], sizes[job.learns_from.title]
        words = (job.title, student, job.learns_from.title, assistant)
        if student > assistant:
            logger.warning("%s: its student has %d parameters, and that of %s, its teacher, %d", *words)
        if student == assistant and _seeds(job) == _seeds(job.learns_from):
            logger.warning(
                "%s: it repeats the seed and the order of the rows of %s, and only the targets differ; give it "
                "arguments: {seed: …}",
                job.title,
                job.learns_from.title,
            )
        if whole is not None and student < assistant:
            _advise_assistant(job, student, assistant, whole)


def advise_exemplars(recipe: Recipe, bound: Mapping[str, Distillation]) -> None:
    """Warns where a stage keeps old labels and learns new ones from a teacher each, and reads no rows of old tasks.
    `bound` are the terms of each stage, by its name."""
    if recipe.data is not None and recipe.data.exemplars is not None:
        return
    for name, distillation in bound.items():
        pairs = [objective.pair for objective in distillation.terms() if objective.needs_teacher]
        if len({pair.member for pair in pairs if pair.student_columns is not None}) > 1:
            logger.warning(
                "stage %r: two teachers teach a part of the labels each, and there are no exemplars of the old ones: "
                "this is learning without forgetting, with an expert. Give data.exemplars",
                name,
            )


def _advise_assistant(job: Job, student: int, assistant: int, teacher: int) -> None:
    if assistant > teacher:
        logger.warning("%s: its assistant has %d parameters, the teacher %d", job.title, assistant, teacher)
    if teacher < GAP * student:
        logger.warning(
            "%s: the teacher has %d parameters, the student %d; there is hardly a gap for an assistant to bridge",
            job.title,
            teacher,
            student,
        )


def _seeds(job: Job) -> tuple[int, int]:
    seed = int(job.settings.get("seed", job.seed))
    return seed, int(job.settings.get("data_seed") or seed)
