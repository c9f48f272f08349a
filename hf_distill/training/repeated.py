"""Rows that are repeated to fill the last batches of an epoch weigh nothing."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from hf_distill.checks import left_over
from hf_distill.distillation import Losses
from hf_distill.training.binding import BoundTrainer

HOLLOW = "hollow"
"""The mark of a batch that holds nothing but a repeated row: it runs, as other processes wait for its gradients, and
weighs nothing."""


class Repeated(BoundTrainer):
    """Overrides `get_batch_samples` and `get_train_dataloader`: in the last round of an epoch, where accelerate gives
    every process a full batch by repeating early rows, each process keeps its own rows of the data set, as one process
    would have them; one that has none of them runs a single row whose loss is multiplied by 0. What takes the batches
    of a step together stands behind this class, as accelerate tells of the batch alone that it gave last.

    Batches are left as they are where an objective exchanges the examples of all processes, as each must then have as
    many; where accelerate does not know how many rows there are (a stream that every process reads for itself,
    `dispatch_batches=False`); and with `tokens_per_batch`, whose sampler repeats rows, fewer than there are processes,
    only where each fills a batch by itself.
    """

    _rest = 0
    """How many rows the last round of an epoch has, over all processes; 0 where no row is repeated."""

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader. How many rows its last round has is kept: accelerate forgets it where it skips batches, so in
        the epoch in which a run was resumed."""
        loader: DataLoader[Any] = super().get_train_dataloader()
        self._rest = left_over(self)
        return loader

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The Trainer's window of batches, without repeated rows."""
        own = (self._without_repeated(batch, self._rest) for batch in epoch_iterator)
        return super().get_batch_samples(own, num_batches, device)

    def _without_repeated(self, batch: Any, rest: int = 0) -> Any:
        """A batch that the loader has just given; `rest` are the rows of its last round, where accelerate does not
        tell."""
        if self.accelerator.num_processes == 1 or self._exchanges_examples:
            return batch
        size = self.distillation.pair.task.num_examples(batch)
        own = self._own_rows(size, rest)
        return batch if own == size else _cut(batch, size, own)

    def _own_rows(self, rows: int, rest: int = 0) -> int:
        """How many of this process's rows are no repetitions; those stand last in the last batch of all processes."""
        state = self.accelerator.gradient_state
        last = rest if state.remainder < 0 else int(state.remainder)
        if not state.end_of_dataloader or last < 1:
            return rows
        return min(max(last - int(self.accelerator.process_index) * rows, 0), rows)

    @property
    def _exchanges_examples(self) -> bool:
        return any(objective.gather or objective.reads_rows for objective in self.distillation.terms())

    def _count(self, batch: Any) -> list[Tensor | int]:
        """The units of a batch that each term counts; none in a hollow one."""
        counted = self.distillation.count(batch)
        return [count * 0 for count in counted] if is_hollow(batch) else counted


def is_hollow(batch: Any) -> bool:
    """Whether the batch holds nothing but a repeated row."""
    return HOLLOW in batch


def emptied(losses: Losses) -> Losses:
    """What a hollow batch gives: zeros, still attached to all that it ran through."""
    return Losses(losses.total * 0.0, torch.zeros_like(losses.values))


def _cut(batch: MutableMapping[str, Any], size: int, own: int) -> MutableMapping[str, Any]:
    """The first `own` of the rows, or the first one as a hollow batch."""
    kept = max(own, 1)
    for name, value in list(batch.items()):
        if isinstance(value, Tensor) and value.dim() and len(value) == size:
            batch[name] = value[:kept]
    if own == 0:
        batch[HOLLOW] = True
    return batch
