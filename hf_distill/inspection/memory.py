"""How much memory there is, and how much a process has held."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import resource
import sys
from pathlib import Path

STATUS, RESET, AVAILABLE = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")


def free_bytes() -> int:
    """Bytes that processes can still have without swapping."""
    if AVAILABLE.is_file():
        return _kilobytes(AVAILABLE, "MemAvailable")
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def forget_peak() -> None:
    """Has `peak_bytes` begin anew, where the system can (Linux)."""
    gc.collect()
    if RESET.is_file():
        ctypes.CDLL(None).malloc_trim(0)
        RESET.write_text("5", encoding="ascii")


def peak_bytes() -> int:
    """The most that the process has held at once since `forget_peak`, or since it began."""
    if STATUS.is_file():
        return _kilobytes(STATUS, "VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _kilobytes(file: Path, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB", file.read_text(encoding="ascii"), re.MULTILINE)
    return 0 if found is None else 1024 * int(found.group(1))
