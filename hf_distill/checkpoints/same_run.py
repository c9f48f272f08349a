"""Which run a checkpoint is of."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hf_distill.checkpoints.manifest import Manifest
from hf_distill.errors import BrokenCheckpoint, DistillationError

logger = logging.getLogger(__name__)

DIFFERENCES = ("data", "teacher", "base", "objectives", "arguments", "world_size", "stage")
"""What tells one run from another, and may be told to differ."""

_SHOWN = 6
_DIGESTS = ("data", "teacher", "base")
_SHA256 = re.compile("[0-9a-f]{64}")


def known_differences(names: Collection[str]) -> frozenset[str]:
    """`resume_despite`, checked.

    Raises: `DistillationError` for a name that is none of `DIFFERENCES`.
    """
    unknown = [repr(name) for name in ([names] if isinstance(names, str) else names) if name not in DIFFERENCES]
    if isinstance(names, str) or unknown:
        raise DistillationError(
            f"resume_despite is {names!r}; give some of {', '.join(DIFFERENCES)}, as a list of names."
        )
    return frozenset(names)


def check_same_run(checkpoint: Path, run: Mapping[str, Any], despite: Collection[str] = ()) -> None:
    """Refuses to go on with other data, another teacher, other objectives, arguments or numbers of processes than the
    checkpoint was trained with, but for those that `despite` names. What either side does not tell of is not compared,
    and of a checkpoint without a manifest nothing is known.

    Raises: `BrokenCheckpoint` with what differs and the remedy.
    """
    manifest = Manifest.read(checkpoint)
    if manifest is None:
        logger.warning(
            "%s has no manifest: whether its files are as they were written, and of this run, is not known. It is "
            "gone on with as it is.",
            checkpoint,
        )
        return
    lines: dict[str, list[str]] = {}
    for name in DIFFERENCES:
        before, now = manifest.run.get(name), run.get(name)
        if name == "arguments" and isinstance(before, dict) and now is not None:
            before = {key: value for key, value in before.items() if key in now}
            now = {key: value for key, value in now.items() if key in before}
        found = [] if name in despite or before is None or now is None else _differences(name, before, now)
        if found:
            lines[name] = found
    if lines:
        told = [line for found in lines.values() for line in found]
        more = f"; and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise BrokenCheckpoint(
            f"{checkpoint} is of another run: {'; '.join(told[:_SHOWN])}{more}. Train as before, or allow it: "
            f"resume_despite={tuple(lines)}."
        )


def check_same_engine(checkpoint: Path, engine: str) -> None:
    """Refuses a checkpoint that was written by what reads no other: whole tensors, parts of a student that was sharded
    when it was loaded, FSDP in one of its forms, DeepSpeed in one of its stages.

    Raises: `BrokenCheckpoint` with both and the remedy.
    """
    manifest = Manifest.read(checkpoint)
    written = engine if manifest is None else manifest.run.get("engine", engine)
    if written != engine:
        raise BrokenCheckpoint(
            f"{checkpoint} was written by an engine ({written}) whose optimizer this one ({engine}) cannot read. "
            "Train on as before, or start anew from its model.safetensors, which is the whole student."
        )


def _differences(name: str, before: Any, now: Any) -> list[str]:
    """Where two plain values differ, in words; digests say nothing by themselves."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        found = [_differences(f"{name}.{key}", before.get(key), now.get(key)) for key in keys]
        return [line for lines in found for line in lines]
    if before == now:
        return []
    digests = all(isinstance(value, str) and _SHA256.fullmatch(value) for value in (before, now))
    return [
        f"{name}: another than before"
        if digests or name in _DIGESTS
        else f"{name}: {_brief(now)}, was {_brief(before)}"
    ]


def _brief(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
