"""The teacher of each stage: in memory, or written down and let go."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.distillation import Distillation
from hf_distill.loading import DTYPES, HELD_IN, is_cast
from hf_distill.recipe import Recipe
from hf_distill.runs.chains import base_of, ensemble_of, finished_student, peers_of, written_teacher
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.stages import Inputs, Job, cache_teacher
from hf_distill.teachers import Cached, Frozen, MovingAverage, Teacher
from hf_distill.teachers.cache.folder import CacheFolder, Facts
from hf_distill.teachers.cache.plan import check_read, check_readers, check_tokens, stored_signals

if TYPE_CHECKING:
    from hf_distill.runs.preparation import Setup

FOLDER = "teacher-cache"
"""Below `stages/`, where nothing is published from."""


def cache_folder(recipe: Recipe, folder: RunFolder) -> Path | None:
    """Where the recipe keeps what the teacher shows; None where it does not."""
    if recipe.teacher is not None and recipe.teacher.cached is not None:
        return Path(recipe.teacher.cached.folder).expanduser()
    if recipe.teacher is None or recipe.teacher.cache is None:
        return None
    named = recipe.teacher.cache.folder
    return folder.stages / FOLDER if named is None else Path(named).expanduser()


def cache_facts(recipe: Recipe, folder: RunFolder) -> Facts | None:
    """The facts of the cache that the students learned from, if there was one; of several teachers of the first."""
    place = cache_folder(recipe, folder)
    if place is not None and recipe.teacher is not None and recipe.teacher.ensemble is not None:
        place = place / next(iter(recipe.teacher.ensemble.members))
    return CacheFolder(place).facts() if place is not None and CacheFolder(place).exists() else None


def check_cache(recipe: Recipe, teacher: PreTrainedModel | None, bound: Mapping[str, Distillation]) -> None:
    """Refuses, before anything runs, what cannot be written down, or not be read as the stages would.

    Raises: `IncompatiblePair` for a teacher that hears, for signals that no cache holds, and for objectives that do
    not take the largest logits alone, or not at their temperature; `DistillationError` where no stage reads anything
    of the teacher.
    """
    if recipe.teacher is None or recipe.teacher.cache is None or teacher is None:
        return
    check_tokens(teacher)
    codec, anatomy = recipe.teacher.cache.made_codec(), Anatomy.of(teacher)
    check_read(signal for distillation in bound.values() for signal in distillation.needs().teacher)
    for distillation in bound.values():
        stored_signals(anatomy, distillation.needs().teacher, codec)
        check_readers(codec, distillation.pair, distillation.terms())


class Teachers:
    """Gives each stage its teacher. With a cache, that is written for the rows of the stage where it is not there yet,
    the teacher is let go, and what the stage reads is on the disk."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self._teacher: Teacher | None = None
        self._written: set[bool] = set()  # whether the rows are augmented

    def of(self, job: Job, student: PreTrainedModel, inputs: Inputs) -> Teacher | None:
        """The teacher of a job, whose rows are in `inputs`.

        Raises: `CacheMismatch` for a cache of something else.
        """
        if job.learns_from is not None:
            return Frozen(finished_student(self.setup, job.learns_from))
        if (peers := peers_of(self.setup)) is not None:
            return peers  # anew for each stage, which hands on what those of the one before learned
        if (base := base_of(self.setup.recipe, job)) is not None:
            return base
        folder = cache_folder(self.setup.recipe, self.setup.folder)
        if folder is None:
            self._teacher = self._teacher or _in_memory(self.setup)
            return self._teacher
        if (written := written_teacher(self.setup.recipe)) is not None:
            return written
        if job.augmented not in self._written:
            write_cache(self.setup, job, student, inputs, folder)
            self._written.add(job.augmented)
            self.setup.release_teacher()
        return _on_disk(self.setup.recipe, folder)


def write_cache(setup: Setup, job: Job, student: PreTrainedModel, inputs: Inputs, folder: Path) -> None:
    """Writes down what the stages read of the teacher for the rows of a job, where it is not there yet.

    Raises: `CacheMismatch`, as `cache_teacher`.
    """
    teacher, section = _in_memory(setup), setup.recipe.teacher
    if teacher is None or section is None or section.cache is None:
        return
    cache_teacher(
        job,
        student,
        teacher,
        inputs,
        folder,
        codec=section.cache.made_codec(),
        signals=setup.signals,
        max_length=setup.limits.longest(setup.tokenizer),
    )


def _in_memory(setup: Setup) -> Teacher | None:
    """The recipe's teacher, of one kind or another."""
    section = setup.recipe.teacher
    if section is not None and section.moving_average is not None:
        return MovingAverage(**section.moving_average.model_dump())
    if section is None or section.ensemble is None:
        return _frozen(setup)
    members = setup.all_members()
    setup.members = {}  # the ensemble alone holds them
    return ensemble_of(section.ensemble, {name: _in_dtype(setup, member) for name, member in members.items()})


def _frozen(setup: Setup) -> Frozen | None:
    """The teacher in the recipe's dtype."""
    teacher = setup.recover_teacher()
    return None if teacher is None else _in_dtype(setup, teacher)


def _in_dtype(setup: Setup, teacher: PreTrainedModel) -> Frozen:
    dtype = None if setup.recipe.teacher is None else setup.recipe.teacher.dtype
    tokenizer = setup.workload.teachers_tokenizer
    if not is_cast(teacher):
        return Frozen(teacher, dtype=DTYPES[dtype or HELD_IN], tokenizer=tokenizer)
    if dtype is None:
        return Frozen(teacher, tokenizer=tokenizer)
    # The student is cut from the teacher at full precision, also the control that is made last.
    return Frozen(copy.deepcopy(teacher), dtype=DTYPES[dtype], tokenizer=tokenizer)


def _on_disk(recipe: Recipe, folder: Path) -> Teacher:
    """The teacher out of its cache; of several each has a folder of its own."""
    section = recipe.teacher
    dtype = None if section is None or section.dtype is None else DTYPES[section.dtype]
    if section is None or section.ensemble is None:
        return Cached(folder, dtype=dtype)
    members = {name: Cached(folder / name, dtype=dtype) for name in section.ensemble.members}
    return ensemble_of(section.ensemble, members)
