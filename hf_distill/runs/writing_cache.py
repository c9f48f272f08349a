"""A recipe's cache of its teacher, written without training anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_distill.recipe import Recipe
from hf_distill.runs.caching import cache_facts, cache_folder, write_cache
from hf_distill.runs.preparation import Setup, start_of
from hf_distill.runs.writing import write_down
from hf_distill.teachers.cache.folder import Facts


def cache_teacher(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str], output_dir: str | os.PathLike[str]
) -> tuple[Path, Facts]:
    """Writes what the stages of a recipe read of the teacher for their rows into the recipe's cache, where it is not
    there yet; the folder, and what it holds, of several teachers for the first. A `run` of the same recipe then trains
    from it.

    With several processes every one of them calls this and does its share.

    Raises: `RecipeError` for a recipe without `teacher.cache`; `DistillationError` for a teacher that the run has yet
    to train; `CacheMismatch` for a cache of something else.
    """
    loaded, folder, place = write_down(
        recipe,
        output_dir,
        cache_folder,
        _write,
        missing="the recipe has no cache of its teacher; give teacher.cache, or --cache_teacher FOLDER.",
        later="the run writes its cache when it is",
    )
    facts = cache_facts(loaded, folder)
    assert facts is not None  # it has just been written
    return place, facts


def _write(setup: Setup, place: Path) -> None:
    """For the rows of each kind that stages learn from."""
    jobs = setup.jobs.student
    for augmented in sorted({job.augmented for job in jobs if job.learns_from is None}):
        number = next(i for i, job in enumerate(jobs) if job.learns_from is None and job.augmented == augmented)
        student = setup.student(start_of(jobs[: number + 1]))
        inputs = setup.inputs(setup.workload.fit(student, "student"), augmented)
        write_cache(setup, jobs[number], student, inputs, place)
