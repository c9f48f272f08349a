"""What a recipe's teacher writes for the training rows, without training anything."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_distill.errors import DistillationError, RecipeError
from hf_distill.recipe import Recipe
from hf_distill.run.folder import RunFolder, wait_for_everyone
from hf_distill.run.generating import generated, heard, texts_folder
from hf_distill.run.preparation import Setup, plan, prepare
from hf_distill.run.running import as_recipe
from hf_distill.run.workloads import load_workload
from hf_distill.teachers.generated import Facts, Generated


def generate_targets(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str], output_dir: str | os.PathLike[str]
) -> tuple[Path, Facts]:
    """Has the teacher of a recipe write for its training rows what stages learn, where that is not there yet; the
    folder, and its facts. A `run` of the same recipe then learns from it.

    Raises: `RecipeError` for a recipe without `teacher.generate`; `DistillationError` for a teacher that the run has
    yet to train; `CacheMismatch` for a folder with other texts.
    """
    loaded = as_recipe(recipe)
    folder = RunFolder(output_dir)
    place = texts_folder(loaded, folder)
    if place is None:
        raise RecipeError("the recipe's teacher writes no texts; give teacher.generate.")
    workload = load_workload(loaded)
    folder.check(loaded, workload.sources)
    jobs = plan(loaded, folder)
    if jobs.teacher is not None and jobs.teacher.mark is None:
        raise DistillationError(
            f"{folder.path}: the teacher is trained by the run itself (teacher.fine_tune), and it is not trained yet; "
            "the run has it write when it is."
        )
    setup = prepare(loaded, folder, workload, jobs)
    with folder.claimed(loaded, workload.sources):
        wait_for_everyone()
        _write(setup)
        wait_for_everyone()
    return place, Generated(place).facts


def _write(setup: Setup) -> None:
    place = setup.jobs.student[0].arguments().device
    if setup.workload.hears:
        heard(setup, place)
        return

    def write(rows: Dataset, sources: Sequence[str], target_column: str) -> Dataset:
        generated(setup, sources, place)
        return rows

    setup.workload.retargeted(write)
