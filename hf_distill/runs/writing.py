"""What a recipe's teacher shows or writes, put down without training anything."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hf_distill.errors import DistillationError, RecipeError
from hf_distill.ranks import wait_for_everyone
from hf_distill.recipe import Recipe
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.preparation import Setup, plan, prepare
from hf_distill.runs.running import as_recipe
from hf_distill.runs.workloads import load_workload


def write_down(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str],
    output_dir: str | os.PathLike[str],
    place_of: Callable[[Recipe, RunFolder], Path | None],
    write: Callable[[Setup, Path], None],
    *,
    missing: str,
    later: str,
) -> tuple[Recipe, RunFolder, Path]:
    """Has `write` put down what a run of the recipe in `output_dir` would; the recipe, the folder of the run, and
    where it was put, which `place_of` says. With several processes every one of them calls this.

    Raises: `RecipeError` with the text `missing` where `place_of` says None; `DistillationError` for a teacher that
    the run has yet to train, which says that the run does it `later`; and what `write` raises.
    """
    loaded = as_recipe(recipe)
    folder = RunFolder(output_dir)
    place = place_of(loaded, folder)
    if place is None:
        raise RecipeError(missing)
    workload = load_workload(folder.pinned(loaded))
    folder.check(loaded, workload.sources)
    jobs = plan(loaded, folder)
    if jobs.teacher is not None and jobs.teacher.mark is None:
        raise DistillationError(
            f"{folder.path}: the teacher is trained by the run itself (teacher.fine_tune), and it is not trained yet; "
            f"{later}."
        )
    setup = prepare(loaded, folder, workload, jobs)
    with folder.claimed(loaded, workload.sources, workload.commits):
        wait_for_everyone()
        write(setup, place)
        wait_for_everyone()
    return loaded, folder, place
