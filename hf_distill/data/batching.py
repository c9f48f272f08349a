"""The order in which rows are drawn, and how many make a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Sampler
from transformers import TrainingArguments
from transformers.trainer_utils import seed_worker

from hf_distill.errors import DataError

GROUP = 50
"""Batches sorted together: enough for little padding, few enough that an epoch still mixes the rows."""

ALIKE = 0.9
"""Rows of at least this share of a length count as of that length where a batch has a budget of tokens, so that they
change places between epochs."""


Lengths = Sequence[int] | NDArray[np.int64]


class LengthGroupedSampler(Sampler[int]):
    """Draws every row once an epoch, so that consecutive rows, a window at a time, are of similar length.

    A window is what one optimizer step reads: `batch_size` rows for each of `processes` and each of `accumulation`
    micro-batches. The rows are shuffled, cut into groups of `GROUP` windows, sorted by length in each group, and the
    windows shuffled. The window with the longest row comes first, so that a lack of memory shows at once; the
    incomplete window comes last. Batches are dealt to processes in turn, and those of one turn get their rows in turn,
    too: their lengths are alike, and none waits for another.

    The order follows from `(seed, epoch)` alone, and no global random state is read: the epoch must be set by
    `set_epoch`, and any place of any epoch can be reached again by skipping batches. Every process gives the same
    order, and windows of one size hold the same rows, however they are cut.

    Errors: DataError for no lengths, a length or a seed below 0, a batch size, processes or accumulation below 1.
    """

    def __init__(
        self, lengths: Lengths, batch_size: int, seed: int = 0, *, processes: int = 1, accumulation: int = 1
    ) -> None:
        self.lengths = _checked("LengthGroupedSampler", lengths, seed, processes)
        if batch_size < 1 or accumulation < 1:
            raise DataError(
                f"LengthGroupedSampler: batch_size {batch_size} and accumulation {accumulation} must be 1 or more."
            )
        self.batch_size = batch_size
        self.processes = processes
        self.window = batch_size * processes * accumulation
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of that epoch, counted from 0, for the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng((self.seed, self.epoch))
        rows = random.permutation(len(self.lengths))
        longest = int(self.lengths[rows].argmax())
        rows[[0, longest]] = rows[[longest, 0]]
        whole = len(rows) - len(rows) % self.window
        size = GROUP * self.window
        groups = [rows[start : min(start + size, whole)] for start in range(0, whole, size)]
        if groups:
            windows = np.concatenate([self._by_length(group) for group in groups]).reshape(-1, self.window)
            random.shuffle(windows[1:])
            turns = windows.reshape(-1, self.batch_size, self.processes)
            rows[:whole] = turns.transpose(0, 2, 1).ravel()
        rows[whole:] = self._by_length(rows[whole:])
        return iter(rows.tolist())

    def _by_length(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows[np.argsort(-self.lengths[rows], kind="stable")]


class TokenBudgetSampler(Sampler[list[int]]):
    """Batches of similar rows with at most `tokens` cells, padding included: many short rows, or few long ones.

    Rows are sorted by length, the longest first, where lengths that are `ALIKE` count as one and their rows are
    shuffled in every epoch. From that order as many rows are taken at a time as fit the budget of each of `processes`,
    and dealt to them in turn, so that all have as many batches, of nearly as many rows and tokens, and none waits for
    another. These steps come in random order, the one with the longest row first, so that a lack of memory shows at
    once.

    The number of batches follows from the lengths alone, so that `len()` holds in every epoch; the order follows from
    `(seed, epoch)`, without global random state. The epoch must be set by `set_epoch`, and every process gives the
    same batches, of which number i is for process i modulo `processes`. If there are too few rows left for all of them
    in the end, the step before gives up some of its own; where it has none to spare, as each of its rows fills a
    budget, rows are repeated. With `drop_last` the rest is left out.

    Errors: DataError for no lengths, a length below 0, a row of more than `tokens`, processes below 1, a seed below 0.
    """

    batch_size = None
    """Batches differ in size, which accelerate reads here."""
    drop_last = False

    def __init__(
        self, lengths: Lengths, tokens: int, seed: int = 0, *, processes: int = 1, drop_last: bool = False
    ) -> None:
        self.lengths = _checked("TokenBudgetSampler", lengths, seed, processes)
        fits_budget(int(self.lengths.max()), tokens)
        self.tokens = tokens
        self.processes = processes
        self.seed = seed
        self.epoch = 0
        self._widths = _classes(np.maximum(self.lengths, 1))
        self._steps = self._cut(drop_last)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the batches of that epoch, counted from 0, for the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._steps) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        random = np.random.default_rng((self.seed, self.epoch))
        rows = np.lexsort((random.permutation(len(self.lengths)), -self._widths))
        longest = int(self.lengths[rows].argmax())
        rows[[0, longest]] = rows[[longest, 0]]
        steps = np.arange(len(self._steps))
        random.shuffle(steps[1:])
        for start, end in (self._steps[step] for step in steps):
            taken = rows[start:end]
            taken = taken[np.argsort(-self.lengths[taken], kind="stable")]
            taken = np.resize(taken, max(len(taken), self.processes))
            for process in range(self.processes):
                yield taken[process :: self.processes].tolist()

    def _cut(self, drop_last: bool) -> list[tuple[int, int]]:
        """Where each step's rows begin and end in the sorted order."""
        widths, number = np.sort(self._widths)[::-1], len(self._widths)
        found: list[tuple[int, int]] = []
        start = 0
        while start < number:
            end = start + self.processes * (self.tokens // int(widths[start]))
            found.append((start, min(end, number)))
            start = end
        if number - found[-1][0] < self.processes:
            if drop_last and len(found) > 1:
                return found[:-1]
            begin = max(number - self.processes, 0)
            found[-1] = (begin, number)
            if len(found) > 1 and begin - found[-2][0] >= self.processes:
                found[-2] = (found[-2][0], begin)
        return found


def lengths_of(rows: Any, column: str) -> NDArray[np.int64]:
    """Tokens of every row: what the column of this name says, if there is one, or the number of its `input_ids`."""
    if column in getattr(rows, "column_names", []):
        return np.asarray(rows[column][:], dtype=np.int64)
    ids = rows["input_ids"][:] if isinstance(rows, Dataset) else (row["input_ids"] for row in rows)
    return np.fromiter(map(len, ids), dtype=np.int64, count=len(rows))


def ready_batches(
    rows: Any, sampler: Sampler[list[int]], collate: Callable[[list[Any]], Any], args: TrainingArguments
) -> DataLoader[Any]:
    """The loader of batches that a sampler names; workers and memory are as the training arguments say."""
    return DataLoader(
        rows,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        in_order=args.dataloader_in_order,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )


def fits_budget(longest: int, tokens: int) -> None:
    """Raises: DataError for a row of more than `tokens`."""
    if longest > tokens:
        raise DataError(
            f"a row has {longest} tokens, and tokens_per_batch is {tokens}: it fits no batch. Raise tokens_per_batch, "
            "or cut texts shorter (max_length)."
        )


def _classes(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """The longest of the lengths that each counts as."""
    values, places = np.unique(-lengths, return_inverse=True)
    widths = -values
    for i in range(1, len(widths)):
        widths[i] = widths[i - 1] if -values[i] >= ALIKE * widths[i - 1] else -values[i]
    return widths[places]


def _checked(name: str, lengths: Lengths, seed: int, processes: int) -> NDArray[np.int64]:
    found = np.asarray(lengths, dtype=np.int64)
    if found.ndim != 1 or not len(found) or found.min() < 0:
        raise DataError(f"{name}: lengths must be a list of at least one number, none below 0.")
    if seed < 0 or processes < 1:
        raise DataError(f"{name}: seed {seed} must be 0 or more, processes {processes} 1 or more.")
    return found
