"""Rows of a data set as a teacher reads them: their keys, found before anything is trained."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_distill.errors import CacheMismatch, DataError
from hf_distill.teachers.cache.keys import KEY, Inputs, row_keys, row_lengths

Collator = Callable[[list[Any]], Mapping[str, Any]]

SCANNED = 64
"""Rows that are put together at a time to learn their keys."""


@dataclass(frozen=True)
class Source:
    """Rows with the collator that puts them together, as training does."""

    rows: Any
    collator: Collator

    def batch(self, numbers: Sequence[int]) -> Mapping[str, Any]:
        """Some rows put together, on the CPU."""
        together = getattr(self.rows, "__getitems__", None)  # a data set of tables reads many rows at a time
        wanted = [int(number) for number in numbers]
        return self.collator([self.rows[number] for number in wanted] if together is None else together(wanted))


@dataclass(frozen=True)
class Scan:
    """The keys (of 16 bytes, `S16`) and lengths of all rows of a source."""

    keys: NDArray[np.bytes_]
    lengths: NDArray[np.int64]


def scan(source: Source, inputs: Inputs) -> Scan:
    """What the teacher reads of each row, as keys.

    Raises: `CacheMismatch` for rows that are made anew each time they are asked for; `DataError` for a stream, and for
    rows that the collator joins.
    """
    if not hasattr(source.rows, "__len__") or not hasattr(source.rows, "__getitem__"):
        raise DataError(
            f"a teacher's cache is for rows that can be had by their number, and {type(source.rows).__name__} is a "
            "stream; store the rows first (a recipe's streaming: false), or train with the teacher itself."
        )
    keys = [np.empty(0, KEY)]
    lengths = [np.empty(0, np.int64)]
    with same_random_numbers():
        _check_repeatable(source, inputs)
        for start in range(0, len(source.rows), SCANNED):
            numbers = range(start, min(start + SCANNED, len(source.rows)))
            batch = source.batch(numbers)
            lengths.append(row_lengths(batch))
            _check_apart(lengths[-1], len(numbers))
            keys.append(np.frombuffer(b"".join(row_keys(batch, inputs, lengths[-1])), KEY))
    return Scan(np.concatenate(keys), np.concatenate(lengths))


def _check_apart(lengths: NDArray[np.int64], number: int) -> None:
    """A row is found by itself, wherever it comes; joined to others, it would be another one in every batch."""
    if len(lengths) != number:
        raise DataError(
            f"the collator makes {len(lengths)} rows of {number} (as DataCollatorWithFlattening does), so that what "
            "the teacher reads depends on which rows are in a batch, and cannot be found again. Pad the rows, or pack "
            "them before training."
        )


def _check_repeatable(source: Source, inputs: Inputs) -> None:
    """Some rows are put together twice; where a data set knows epochs (`epoch_sampler`), in two of them."""
    numbers = range(min(SCANNED, len(source.rows)))
    later = len(source.rows) if hasattr(source.rows, "epoch_sampler") else 0
    found = []
    for first in (0, later):
        batch = source.batch([first + number for number in numbers])
        found.append(row_keys(batch, inputs, row_lengths(batch)))
    if found[0] != found[1]:
        raise CacheMismatch(
            "the rows are made anew each time they are read (masking, augmentation or sampling in the data set or the "
            "collator), so what the teacher shows of them cannot be written down once. Train with the teacher itself, "
            "or make the rows before training."
        )


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Leaves the random numbers of training as they were."""
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
