"""How checkpoints come and go."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.trainer_utils import sort_checkpoints

from hf_distill.checkpoints.manifest import Manifest
from hf_distill.checkpoints.whole import is_checkpoint, is_torn, step_of

logger = logging.getLogger(__name__)


def part_of(home: Path, step: int) -> Path:
    """The folder in which `checkpoint-<step>` is written before it is whole; the checkpoint lies in it by its own
    name."""
    return home / f".checkpoint-{step}.part"


def begin(part: Path) -> None:
    """Makes the folder of a checkpoint to come, and removes what a run that was killed left of others."""
    for pattern in (".checkpoint-*.part", ".checkpoint-*.old"):
        for left in part.parent.glob(pattern):
            shutil.rmtree(left)
    part.mkdir(parents=True)


def abandon(part: Path) -> int:
    """Removes a checkpoint that could not be written; returns how many bytes were free before."""
    free = shutil.disk_usage(part.parent).free
    shutil.rmtree(part, ignore_errors=True)
    return free


def put_in_place(part: Path, step: int, run: Mapping[str, Any]) -> Path:
    """Gives a checkpoint that is written whole its manifest and its place; returns where it lies.

    The file sizes are in the manifest, the sums come with `seal`. One of the same step, torn or of an earlier try,
    makes room.
    """
    written = part / f"checkpoint-{step}"
    Manifest.of(written, step, run).write(written)
    final = part.parent / written.name
    if final.exists():
        old = part.parent / f".{final.name}.old"
        final.rename(old)
        written.rename(final)
        shutil.rmtree(old)
    else:
        written.rename(final)
    part.rmdir()
    return final


def seal(checkpoint: Path) -> None:
    """Puts the SHA-256 of every file into the manifest, when all of them are on the disk. A checkpoint that was taken
    away meanwhile is let go.
    """
    try:
        manifest = Manifest.read(checkpoint)
        if manifest is not None:
            manifest.sealed(checkpoint).write(checkpoint)
    except FileNotFoundError:
        if checkpoint.is_dir():
            raise
        logger.warning("%s was removed while it was looked over", checkpoint)


def rotate(home: Path, limit: int | None, newest: Path, best: str | None) -> None:
    """Removes the oldest checkpoints until `limit` whole ones are left, and those that are torn.

    The one just written and the best one stay. So does what is torn and of a later step than the one just written:
    training gets there.
    """
    if limit is None or limit <= 0:
        return
    kept = {newest, newest if best is None else Path(best)}
    found = [each for each in map(Path, sort_checkpoints(str(home), use_mtime=True)) if is_checkpoint(each)]
    whole = [each for each in found if each in kept or not is_torn(each)]
    surplus = max(len(whole) - max(limit, len(kept)), 0)
    step = step_of(newest)
    old = [each for each in whole if each not in kept][:surplus]
    torn = [each for each in found if each not in whole and step_of(each) < step]
    for each in (*old, *torn):
        shutil.rmtree(each, ignore_errors=True)  # whoever else removes it
