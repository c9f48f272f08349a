"""Faults of a loader's worker processes, told as errors of the data."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hf_distill.errors import DataError, DistillationError

_CAUGHT = "DataLoader worker process"
"""Part of what torch puts before an error that it hands on from a worker."""

_OF_DEAD = "one that is killed was mostly out of memory: lower dataloader_num_workers or dataloader_prefetch_factor."
_OF_SLOW = "a worker waits for what it reads, or needs longer for a batch than ddp_timeout allows."


@contextmanager
def told_of_workers() -> Iterator[None]:
    """Tells in one line what goes wrong in worker processes meanwhile.

    torch raises a `RuntimeError` for a worker that is dead, and for one that gives nothing for so long as the loader
    waits (`can_wait`); an error raised in a worker comes with the worker's traceback in its message.

    Raises: `DataError` for a worker that died or hangs; what a worker raised, if it is of this package, as that.
    """
    try:
        yield
    except DistillationError as error:
        text = str(error)
        if _CAUGHT not in text.split("\n")[0]:
            raise
        kind = type(error)
        raise kind(text.rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()) from error
    except RuntimeError as error:
        if not is_of_worker(error):
            raise
        text = str(error).strip()
        remedy = _OF_SLOW if "timed out" in text else _OF_DEAD
        raise DataError(
            f"{text.splitlines()[0].rstrip('. ')}. What was trained stands in the last checkpoint; {remedy}"
        ) from error


def is_of_worker(error: BaseException) -> bool:
    """Whether torch tells of a worker process by it: wherever the program is at that moment."""
    return isinstance(error, RuntimeError) and str(error).strip().startswith("DataLoader ")


def can_wait() -> bool:
    """Whether a loader that waits for its workers for a limited time still hears at once of one that is dead: by a
    signal, which the main thread gets, and not on Windows. Elsewhere torch looks after them every 5 s, but only where
    it may wait for ever."""
    return sys.platform != "win32" and threading.current_thread() is threading.main_thread()
