"""Faults of a loader's worker processes, told as errors of the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hf_distill.errors import DataError, DistillationError

_CAUGHT = "DataLoader worker process"
"""Part of what torch puts before an error that it hands on from a worker."""


@contextmanager
def told_of_workers() -> Iterator[None]:
    """Tells in one line what goes wrong in worker processes meanwhile.

    torch sees a dead worker at once, or within 5 s of asking it for a batch, and raises a `RuntimeError`; an error
    raised in a worker comes with the worker's traceback in its message.

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
        text = str(error).strip()
        if not text.startswith("DataLoader "):
            raise
        raise DataError(
            f"{text.splitlines()[0].rstrip('. ')}. What was trained stands in the last checkpoint; a worker that is "
            "killed was mostly out of memory: lower dataloader_num_workers or dataloader_prefetch_factor."
        ) from error
