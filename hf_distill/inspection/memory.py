"""How much memory there is, and how much a process has held."""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
import torch

from hf_distill.runs.memory import most_held

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")

GROUPS, OWN_GROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Control groups, which limit what a container may have, and those that the process belongs to."""


class _Limit(NamedTuple):
    """Files of a control group: what its processes may have and what they have, and the entry of `memory.stat` of what
    of that they can let go."""

    most: str
    held: str
    loose: str


FIRST = _Limit("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
SECOND = _Limit("memory.max", "memory.current", "inactive_file")
"""Those of the two versions of control groups."""


def free_bytes() -> int:
    """Bytes that processes can still have without swapping, in the container that they are in."""
    return max(min([int(psutil.virtual_memory().available), *_left_in_groups()]), 0)


def accelerator_memory() -> tuple[int, int] | None:
    """Free bytes of the accelerator, and all that it has; None where there is none, or torch does not tell."""
    tell = getattr(torch.accelerator, "get_memory_info", None)  # older releases have no such function
    if tell is None or not torch.accelerator.is_available():
        return None
    try:
        free, there = tell()
    except RuntimeError:  # a kind of device that does not tell
        return None
    return int(free), int(there)


def forget_peak() -> None:
    """Has `peak_bytes` begin anew, where the system can (Linux)."""
    gc.collect()
    if RESET.is_file():
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """The most that the process has held at once since `forget_peak`, or since it began."""
    if STATUS.is_file():
        return _found(STATUS, r"VmHWM:\s+(\d+) kB") * 1024
    return most_held()


def _left_in_groups() -> Iterator[int]:
    """What each group that the process is in leaves, and those around it."""
    lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines() if OWN_GROUPS.is_file() else []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if not controllers:
            yield from _left(GROUPS, path, SECOND)
        elif "memory" in controllers.split(","):
            yield from _left(GROUPS / "memory", path, FIRST)


def _left(root: Path, path: str, files: _Limit) -> Iterator[int]:
    """Inside of a container, which sees its own group as the root, the folder of the path may not be there."""
    inner = root / path.lstrip("/")
    for folder in (inner, *(each for each in inner.parents if each.is_relative_to(root))):
        most = folder / files.most
        if most.is_file() and most.read_text(encoding="ascii").strip() != "max":
            loose = _found(folder / "memory.stat", rf"{files.loose} (\d+)")
            yield _found(most, r"(\d+)") - _found(folder / files.held, r"(\d+)") + loose


def _found(file: Path, pattern: str) -> int:
    """The number in a line of a file; 0 where there is none."""
    found = re.search(f"^{pattern}", file.read_text(encoding="ascii"), re.MULTILINE) if file.is_file() else None
    return 0 if found is None else int(found.group(1))
