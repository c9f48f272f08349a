"""Folders that one job at a time may write into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from hf_distill.errors import DistillationError


@contextmanager
def claimed(folder: Path, error: type[DistillationError], at_work: str, not_made: str) -> Iterator[None]:
    """Makes a folder and keeps other jobs out of it meanwhile; one process of a job calls it.

    Raises: `error` with the text `at_work` if another job has it, and with `not_made` and the reason if it cannot be
    made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout as reason:
        raise error(at_work) from reason
    except OSError as reason:
        raise error(
            f"{not_made} cannot be made: {reason.strerror or reason}. Choose a folder that this process may write "
            "into, on a disk with room."
        ) from reason
    try:
        yield
    finally:
        lock.release()
