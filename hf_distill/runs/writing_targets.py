"""What a recipe's teacher writes for the training rows, without training anything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import Dataset
from torch import device

from hf_distill.recipe import Recipe
from hf_distill.runs.abilities import Retargetable
from hf_distill.runs.generating import heard, read_by_teacher, sorted_out, texts_folder
from hf_distill.runs.preparation import Setup
from hf_distill.runs.writing import write_down
from hf_distill.teachers.generated import Facts, Generated


def generate_targets(
    recipe: Recipe | Mapping[str, Any] | str | os.PathLike[str], output_dir: str | os.PathLike[str]
) -> tuple[Path, Facts]:
    """Has the teacher of a recipe write for its training rows what stages learn, or hear what is said in them, where
    that is not there yet; the folder, and its facts. A `run` of the same recipe then learns from it.

    Raises: `RecipeError` for a recipe without `teacher.generate`; `DistillationError` for a teacher that the run has
    yet to train; `CacheMismatch` for a folder with other texts.
    """
    _, _, place = write_down(
        recipe,
        output_dir,
        texts_folder,
        _write,
        missing="the recipe's teacher writes no texts; give teacher.generate.",
        later="the run has it write when it is",
    )
    return place, Generated(place).facts


def _write(setup: Setup, place: Path) -> None:
    here = setup.jobs.student[0].arguments().device
    if isinstance(setup.workload, Retargetable):
        _sort_out(setup, setup.workload, here)
    else:
        heard(setup, here)


def _sort_out(setup: Setup, workload: Retargetable, place: device) -> None:
    """Has the texts written, and counts those that the filters keep."""
    sources = read_by_teacher(setup, workload)

    def counted(rows: Dataset, target_column: str) -> Dataset:
        sorted_out(setup, sources, rows[target_column][:], place)
        return rows

    workload.retargeted(counted)
