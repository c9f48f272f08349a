"""What objectives and teachers learned, beside the student in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hf_distill.errors import BrokenCheckpoint
from hf_distill.shards import of_objectives
from hf_distill.teachers import Teacher

OBJECTIVES = "distillation.safetensors"
"""What the objectives learned: tensors named `<term>.<parameter>`."""

TEACHER = "teacher.safetensors"
"""A teacher that follows the student, `MovingAverage`."""


def write_objectives(folder: Path, objectives: nn.ModuleDict, *, gathered: Mapping[str, Tensor] | None = None) -> None:
    """Writes what the objectives learned, if they learned anything; of an engine's `gathered` state, if one holds
    them in shards."""
    found = objectives.state_dict() if gathered is None else of_objectives(gathered)
    state = {name: tensor.contiguous().cpu() for name, tensor in found.items()}
    if state:
        save_file(state, folder / OBJECTIVES)


def read_objectives(folder: Path, objectives: nn.ModuleDict) -> None:
    """Gives the objectives back what `write_objectives` wrote.

    Raises: `BrokenCheckpoint` if the file is missing, damaged, or of other objectives.
    """
    wanted = objectives.state_dict()
    path = folder / OBJECTIVES
    if not wanted:
        return
    if not path.is_file():
        raise BrokenCheckpoint(
            f"{path} is missing; the objectives learn {', '.join(wanted)} and cannot go on without it."
        )
    found = _tensors(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    if shapes != expected:
        raise BrokenCheckpoint(
            f"{path} holds {shapes}, the objectives of this run learn {expected}; it is of another run."
        )
    objectives.load_state_dict(found)


def write_teacher(folder: Path, teacher: Teacher | None) -> None:
    """Writes what of the teacher changes while the student trains, if anything does."""
    state = {} if teacher is None else teacher.state()
    if state:
        save_file({name: tensor.contiguous().cpu() for name, tensor in state.items()}, folder / TEACHER)


def read_teacher(folder: Path, teacher: Teacher | None) -> None:
    """Gives the teacher back what `write_teacher` wrote.

    Raises: `BrokenCheckpoint` if the file is missing, damaged, or of another teacher.
    """
    path = folder / TEACHER
    if teacher is None or not teacher.state():
        return
    if not path.is_file():
        raise BrokenCheckpoint(
            f"{path} is missing; the teacher changes while the student trains, and cannot go on without it."
        )
    teacher.load_state(_tensors(path))


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error}. Resume from an earlier checkpoint.") from error
    return found
