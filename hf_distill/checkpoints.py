"""What lies beside the student in a checkpoint, and which checkpoint is whole."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.trainer import TRAINING_ARGS_NAME

from hf_distill.errors import BrokenCheckpoint
from hf_distill.teachers import Teacher

logger = logging.getLogger(__name__)

OBJECTIVES = "distillation.safetensors"
"""What the objectives learned: tensors named `<term>.<parameter>`."""

TEACHER = "teacher.safetensors"
"""A teacher that follows the student, `MovingAverage`."""

ARGUMENTS = "training_arguments.json"
_BUDGET = "tokens_per_batch"
"""The trainer's own setting, told of beside the arguments."""

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model_fsdp_0",
)


def write_objectives(folder: Path, objectives: nn.ModuleDict) -> None:
    """Writes what the objectives learned, if they learned anything."""
    state = {name: tensor.contiguous().cpu() for name, tensor in objectives.state_dict().items()}
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


def replace_pickled_arguments(folder: Path, args: Any, tokens_per_batch: int | None = None) -> None:
    """Puts the arguments down as JSON with tokens masked, and the token budget; the pickle that the Trainer writes
    would hold tokens in clear.
    """
    (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
    told = {**args.to_sanitized_dict(), _BUDGET: tokens_per_batch}
    text = json.dumps(told, indent=2, default=str, sort_keys=True)
    (folder / ARGUMENTS).write_text(text + "\n", encoding="utf-8")


def check_same_budget(checkpoint: Path, tokens_per_batch: int | None) -> None:
    """Refuses to go on with another token budget: the batches of an epoch are others then, so that those which are
    skipped are not those which were trained on. A checkpoint that does not tell of a budget is not compared.

    Raises: `BrokenCheckpoint` with both values and the remedy.
    """
    path = checkpoint / ARGUMENTS
    if not path.is_file():
        return
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BrokenCheckpoint(f"{path} cannot be read: {error}. Resume from an earlier checkpoint.") from error
    if isinstance(told, dict) and told.get(_BUDGET, tokens_per_batch) != tokens_per_batch:
        raise BrokenCheckpoint(
            f"{checkpoint} was trained with tokens_per_batch={told[_BUDGET]}, and {tokens_per_batch} is asked for: "
            f"batches would be others, and rows be trained on twice or not at all. Set tokens_per_batch="
            f"{told[_BUDGET]} to go on, or ignore_data_skip=True to begin the epoch's batches anew."
        )


def last_whole(output_dir: Path) -> Path | None:
    """The newest `checkpoint-<step>` from which a run can go on; torn ones are skipped with a message.

    The Trainer writes `trainer_state.json` last, so a readable one that names the folder's own step marks the end of a
    save.
    """
    steps = [path for path in output_dir.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    for path in sorted(steps, key=lambda each: int(each.name.removeprefix("checkpoint-")), reverse=True):
        fault = _fault(path)
        if fault is None:
            return path
        logger.warning("%s is not whole (%s) and is skipped", path, fault)
    return None


def to_resume_from(asked: str | bool | None, output_dir: Path) -> str | None:
    """The checkpoint that `train(resume_from_checkpoint=…)` means: True is the newest whole one.

    Raises: `BrokenCheckpoint` for one that is named and not whole, or if there is none.
    """
    if not asked:
        return None
    if asked is True:
        newest = last_whole(output_dir)
        if newest is None:
            raise BrokenCheckpoint(f"{output_dir} has no whole checkpoint to resume from; train without resuming.")
        return str(newest)
    fault = _fault(Path(asked))
    if fault is not None:
        raise BrokenCheckpoint(f"{asked} is not whole ({fault}); resume from an earlier checkpoint.")
    return asked


def _fault(path: Path) -> str | None:
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"trainer_state.json: {error}"
    step = path.name.removeprefix("checkpoint-")
    if not isinstance(state, dict) or (step.isdigit() and state.get("global_step") != int(step)):
        return "trainer_state.json is of another step"
    if not any((path / name).exists() for name in WEIGHTS):
        return "no weights"
    for name in ("optimizer.pt", "scheduler.pt"):
        if not (path / name).exists() and not any(path.glob("global_step*")) and not any(path.glob("optimizer_*")):
            return f"{name} is missing"
    if not any(path.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    return None
