"""The order in which rows are drawn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler

from hf_distill.errors import DataError

GROUP = 50
"""Batches sorted together: enough for little padding, few enough that an epoch still mixes the rows."""


class LengthGroupedSampler(Sampler[int]):
    """Draws every row once an epoch, so that consecutive rows, `batch_size` at a time, are of similar length.

    The rows are shuffled, cut into groups of `GROUP` batches, sorted by length in each group, and the batches
    shuffled. The batch with the longest row comes first, so that a lack of memory shows at once; the incomplete batch
    comes last.

    The order follows from `(seed, epoch)` alone, and no global random state is read: the epoch must be set by
    `set_epoch`, and any place of any epoch can be reached again by skipping batches. Every process gives the same
    order.

    Errors: DataError for no lengths, a length below 0, a batch size below 1, a seed below 0.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int = 0) -> None:
        self.lengths = np.asarray(lengths, dtype=np.int64)
        if self.lengths.ndim != 1 or not len(self.lengths) or self.lengths.min() < 0:
            raise DataError("LengthGroupedSampler: lengths must be a list of at least one number, none below 0.")
        if batch_size < 1 or seed < 0:
            raise DataError(f"LengthGroupedSampler: batch_size {batch_size} must be 1 or more, seed {seed} 0 or more.")
        self.batch_size = batch_size
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
        whole = len(rows) - len(rows) % self.batch_size
        size = GROUP * self.batch_size
        groups = [rows[start : min(start + size, whole)] for start in range(0, whole, size)]
        if groups:
            groups = [group[np.argsort(-self.lengths[group], kind="stable")] for group in groups]
            batches = np.concatenate(groups).reshape(-1, self.batch_size)
            random.shuffle(batches[1:])
            rows[:whole] = batches.ravel()
        return iter(rows.tolist())
