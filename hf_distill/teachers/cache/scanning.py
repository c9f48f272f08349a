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
from hf_distill.teachers.cache.keys import KEY, Inputs
from hf_distill.teachers.cache.pieces import Pieces

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
    """The keys (of 16 bytes, `S16`) of all pieces of a source, row after row, the numbers of their rows, and the
    lengths of all rows."""

    keys: NDArray[np.bytes_]
    rows: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def are_rows(self) -> bool:
        """Whether every row is one piece."""
        return len(self.keys) == len(self.lengths)


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
    keys, rows, lengths = [np.empty(0, KEY)], [np.empty(0, np.int64)], np.zeros(len(source.rows), np.int64)
    with same_random_numbers():
        _check_repeatable(source, inputs)
        start, step = 0, SCANNED
        while start < len(source.rows):
            numbers = range(start, min(start + step, len(source.rows)))
            batch = source.batch(numbers)
            if len(batch["input_ids"]) != len(numbers):
                _check_apart(batch, inputs, len(numbers))
                step = 1  # of rows that are joined none could be told from the next
                continue
            pieces = Pieces.of(batch, inputs)
            keys.append(np.frombuffer(b"".join(pieces.keys), KEY))
            rows.append(pieces.rows + start)
            np.add.at(lengths, rows[-1], pieces.lengths)
            start = numbers.stop
    return Scan(np.concatenate(keys), np.concatenate(rows), lengths)


def _check_apart(batch: Mapping[str, Any], inputs: Inputs, number: int) -> None:
    """A row is found by itself, wherever it comes; joined to others, it would be another one in every batch, unless
    the teacher reads it apart from them."""
    if len(Pieces.of(batch, inputs)) < number:
        raise DataError(
            f"the collator makes {len(batch['input_ids'])} rows of {number} (as DataCollatorWithFlattening does), so "
            "that what the teacher reads depends on which rows are in a batch, and cannot be found again. Pad the "
            "rows, pack them before training, or have the collator give position_ids that begin anew with each, and "
            "no attention_mask."
        )


def _check_repeatable(source: Source, inputs: Inputs) -> None:
    """Some rows are put together twice; where a data set knows epochs (`epoch_sampler`), in two of them."""
    numbers = range(min(SCANNED, len(source.rows)))
    later = len(source.rows) if hasattr(source.rows, "epoch_sampler") else 0
    found = []
    for first in (0, later):
        batch = source.batch([first + number for number in numbers])
        found.append(Pieces.of(batch, inputs).keys)
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
