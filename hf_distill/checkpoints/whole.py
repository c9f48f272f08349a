"""Which checkpoints are whole."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from hf_distill.checkpoints.manifest import MANIFEST, Manifest
from hf_distill.errors import BrokenCheckpoint

logger = logging.getLogger(__name__)

_STATES = {"optimizer.pt": ("optimizer_*", "optimizer.bin", "global_step*"), "scheduler.pt": ("global_step*",)}
"""What must be there, and what FSDP and DeepSpeed have in place of it."""

_NAME = re.compile("checkpoint-[0-9]{1,18}")

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "adapter_model.safetensors",
    "pytorch_model_fsdp_0",
)


def last_whole(output_dir: Path) -> Path | None:
    """The newest `checkpoint-<step>` from which a run can go on; torn and damaged ones are skipped with a message."""
    return _search(output_dir)[0]


def _search(output_dir: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint, and what is wrong with those after it."""
    faults: list[str] = []
    for path in sorted(checkpoints_in(output_dir), key=step_of, reverse=True):
        fault = fault_of(path)
        if fault is None:
            return path, faults
        faults.append(f"{path.name}: {fault}")
        logger.warning("%s is not whole (%s) and is skipped", path, fault)
    return None, faults


def to_resume_from(asked: str | bool | None, output_dir: Path) -> str | None:
    """The checkpoint that `train(resume_from_checkpoint=…)` means: True is the newest whole one.

    Raises: `BrokenCheckpoint` for one that is named and not whole, or if there is none.
    """
    if not asked:
        return None
    if asked is True:
        newest, faults = _search(output_dir)
        if newest is None:
            told = f" ({'; '.join(faults)})" if faults else ""
            raise BrokenCheckpoint(
                f"{output_dir} has no whole checkpoint to resume from{told}; train without resuming."
            )
        if faults:
            logger.warning("going on from %s", newest)
        return str(newest)
    fault = fault_of(Path(asked))
    if fault is not None:
        raise BrokenCheckpoint(f"{asked} is not whole ({fault}); resume from an earlier checkpoint.")
    return asked


def check_intact(checkpoint: Path) -> None:
    """Refuses a checkpoint with a file that is not as it was written.

    Raises: `BrokenCheckpoint` with the file.
    """
    fault = _damage(checkpoint, thoroughly=True)
    if fault is not None:
        raise BrokenCheckpoint(f"{checkpoint} is not whole: {fault}.")


def fault_of(path: Path) -> str | None:
    """Why a run cannot go on from a checkpoint, whose bytes are read; None where it can."""
    return _damage(path, thoroughly=True) or _lack(path)


def is_torn(path: Path) -> bool:
    """Whether the writing of a checkpoint was broken off, by its manifest, and where there is none by what is missing:
    one of the model alone (`save_only_model`) is whole, though no run goes on from it.
    """
    fault = _damage(path, thoroughly=False)
    return fault is not None or (not (path / MANIFEST).is_file() and _lack(path) is not None)


def _damage(path: Path, thoroughly: bool) -> str | None:
    try:
        manifest = Manifest.read(path)
        return None if manifest is None else manifest.fault(path, thoroughly)
    except (BrokenCheckpoint, OSError) as error:
        return str(error)


def _lack(path: Path) -> str | None:
    """What is missing, whether or not there is a manifest.

    The Trainer writes `trainer_state.json` last, so where there is none, a readable one that names the folder's own
    step marks the end of a save.
    """
    try:
        state = json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f"trainer_state.json: {error}"
    if not isinstance(state, dict) or (is_checkpoint(path) and state.get("global_step") != step_of(path)):
        return "trainer_state.json is of another step"
    adapters = any(path.glob("*/adapter_model.safetensors"))  # those with names of their own lie in folders
    if not adapters and not any((path / name).exists() for name in WEIGHTS):
        return "no weights"
    for name, others in _STATES.items():
        if not (path / name).exists() and not any(any(path.glob(each)) for each in others):
            return f"{name} is missing"
    if not any(path.glob("rng_state*.pth")):
        return "rng_state.pth is missing"
    return None


def checkpoints_in(output_dir: Path) -> list[Path]:
    """The folders `checkpoint-<step>`, in no order."""
    return [path for path in output_dir.glob("checkpoint-*") if is_checkpoint(path)]


def is_checkpoint(path: Path) -> bool:
    """Whether a folder is named as the Trainer names its checkpoints."""
    return _NAME.fullmatch(path.name) is not None


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))
