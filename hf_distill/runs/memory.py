"""The memory of this process."""

from __future__ import annotations

import sys

import psutil


def most_held() -> int:
    """Bytes, the most that the process has held at once since it began."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
