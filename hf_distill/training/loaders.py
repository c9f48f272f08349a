"""The loaders and samplers of a `DistillationTrainer`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import has_length

from hf_distill.data.batching import LengthGroupedSampler, TokenBudgetSampler, lengths_of, ready_batches
from hf_distill.data.pairs import PairedCollator, PairedRows
from hf_distill.data.readable import Readable
from hf_distill.data.symbols import WithoutBlanks
from hf_distill.errors import DataError
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.row_wise import RowWise
from hf_distill.teachers import Teacher
from hf_distill.training.binding import BoundTrainer
from hf_distill.training.teacher_cache import compared_rows
from hf_distill.training.workers import can_wait


class Loaders(BoundTrainer):
    """Overrides the Trainer's `get_*_dataloader`: the batches hold what a teacher reads of the disk, rows bring
    partners where a term asks for them, `tokens_per_batch` says how many rows are in a batch, and what no model can
    read is refused: tokens and labels out of range, batches without a token, the blank among labels that are aligned
    with frames.

    Overrides the samplers, `_get_train_sampler` and `_get_eval_sampler`, so that orders follow from seed and epoch
    alone, and `get_total_train_batch_size`, as batches of a budget differ in rows.
    """

    _epoch_order: Any = None
    """The sampler that makes its own order, which is told the epoch."""
    _paired: PairedRows | None = None
    _ordering: Any = None
    """What draws the order of an epoch from its number; a loader that dispatches batches does not tell it once it
    skips some."""
    _prepared: Teacher | None = None
    """The teacher that has seen the rows."""

    def set_epoch(self, epoch: int) -> None:
        """Tells what makes its own order which epoch it is: on a resume within an epoch, with several processes,
        nobody else does."""
        if self._epoch_order is not None:
            self._epoch_order.set_epoch(epoch)
        if self._paired is not None:
            self._paired.set_epoch(epoch)
        if self._ordering is not None:
            self._ordering.set_epoch(epoch)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The Trainer's loader, or one of batches with a budget of tokens."""
        reads_labels = any(isinstance(o, RowWise) and o.reads_labels for o in self.distillation.terms())
        with self._checking(labels=reads_labels), self._reading_teacher(), self._pairing():
            loader = self._worked(self._train_loader())
        self._ordering = _ordering(loader)
        return loader

    def get_batch_samples(self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device) -> Any:
        """The batches of a step. A stream that ends before there are enough for one gives none: the Trainer would make
        no step of them, and add their gradients to the next one's.

        Raises: `DataError` for a stream that has less than a step takes.
        """
        samples, counted = super().get_batch_samples(epoch_iterator, num_batches, device)
        if len(samples) == num_batches or has_length(self.train_dataset):
            return samples, counted
        if samples and not self.state.global_step:
            raise DataError(
                f"the training data ended after {len(samples)} batches, and a step takes {num_batches}; lower "
                "gradient_accumulation_steps."
            )
        return [], None

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """The Trainer's loader; the batches of a model without a head are compared with the teacher's."""
        with self._checking(), nullcontext() if self._has_answers else self._reading_teacher():
            return self._worked(super().get_eval_dataloader(eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """The Trainer's loader, as `get_eval_dataloader`."""
        with self._checking(), nullcontext() if self._has_answers else self._reading_teacher():
            return self._worked(super().get_test_dataloader(test_dataset))

    def _worked(self, loader: DataLoader[Any]) -> DataLoader[Any]:
        """Gives the loader of workers an end to waiting for them, that of processes for each other; and, of workers
        that stay, a generator of its own. It draws their seed once, when they start, and a resumed run starts them in
        another epoch: of the generator that dropout draws from, one more would be gone.
        """
        if self.args.dataloader_num_workers > 0:
            held = getattr(loader, "base_dataloader", loader)  # accelerate's loader asks the one that it holds
            held.timeout = self.args.ddp_timeout if can_wait() else 0
            if self.args.dataloader_persistent_workers:
                held.generator = torch.Generator().manual_seed(self._data_seed)
        return loader

    @contextmanager
    def _checking(self, *, labels: bool = True) -> Iterator[None]:
        """The loaders that are made meanwhile refuse batches that no model can read, `labels` that are no class, and
        labels that are the blank, where a term aligns some."""
        collator, blanks, pair = self.data_collator, self.distillation.blanks, self.distillation.pair
        classes = _num_classes(pair) if labels else None
        theirs = None if pair.across is None or pair.teacher is None else pair.teacher.vocab_size
        self.data_collator = Readable(collator, _num_tokens(pair), classes, theirs)
        if blanks:
            self.data_collator = WithoutBlanks(self.data_collator, blanks)
        try:
            yield
        finally:
            self.data_collator = collator

    @contextmanager
    def _reading_teacher(self) -> Iterator[None]:
        """The batches of loaders that are made meanwhile hold what the teacher reads of the disk."""
        collator = self.data_collator
        if self.teacher is not None and self._reads_teacher:
            if self._prepared is not self.teacher:
                for rows, together in compared_rows(self):
                    self.teacher.prepare(rows, together, self.processing_class)
                self._prepared = self.teacher
            self.data_collator = self.teacher.reading(collator)
        try:
            yield
        finally:
            self.data_collator = collator

    @contextmanager
    def _pairing(self) -> Iterator[None]:
        """The rows of loaders that are made meanwhile bring partners, where an objective asks for them."""
        rows, collator = self.train_dataset, self.data_collator
        if self._partners is None or rows is None:
            yield
            return
        if isinstance(rows, Dataset):
            self._paired = PairedRows(self._remove_unused_columns(rows, description="training"), self._partners)
            self.data_collator = PairedCollator(collator)
        else:
            self._paired = PairedRows(rows, self._partners)
            self.data_collator = PairedCollator(self._get_collator_with_removed_columns(collator, "training"))
        self.train_dataset = self._paired
        try:
            yield
        finally:
            self.train_dataset, self.data_collator = rows, collator

    def _train_loader(self) -> DataLoader[Any]:
        if hasattr(self.train_dataset, "__len__") and len(self.train_dataset) == 0:
            raise DataError("the training data have no rows; look at what was read, and at what was left out of it.")
        if self.tokens_per_batch is None or self.train_dataset is None:  # which the Trainer tells
            return super().get_train_dataloader()  # type: ignore[no-any-return]
        rows, collate = self.train_dataset, self.data_collator
        self._epoch_order = self._token_batches(rows, self.tokens_per_batch)
        if isinstance(rows, Dataset):
            rows = self._remove_unused_columns(rows, description="training")
        else:
            collate = self._get_collator_with_removed_columns(collate, description="training")
        evened, self.accelerator.even_batches = self.accelerator.even_batches, False  # the sampler sees to that
        try:
            loader: DataLoader[Any] = self.accelerator.prepare(
                ready_batches(rows, self._epoch_order, collate, self.args)
            )
        finally:
            self.accelerator.even_batches = evened
        return loader

    def _token_batches(self, rows: Any, tokens: int) -> TokenBudgetSampler:
        seed, drop_last = self._data_seed, self.args.dataloader_drop_last
        processes = self.accelerator.num_processes
        if hasattr(rows, "epoch_batches"):
            packed: TokenBudgetSampler = rows.epoch_batches(seed, tokens, processes=processes, drop_last=drop_last)
            return packed
        lengths = lengths_of(rows, self.args.length_column_name)
        return TokenBudgetSampler(lengths, tokens, seed, processes=processes, drop_last=drop_last)

    def get_total_train_batch_size(self, args: Any) -> int:
        """Rows of an optimizer step over all processes; their mean where batches have a budget of tokens."""
        if not isinstance(self._epoch_order, TokenBudgetSampler):
            return int(super().get_total_train_batch_size(args))
        batches = len(self._epoch_order)
        step: int = args.gradient_accumulation_steps * self._epoch_order.processes
        return round(len(self._epoch_order.lengths) * min(step, batches) / batches)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Length groups are drawn from seed and epoch alone, so that a resumed run sees the batches it would have
        seen; so are the rows of a data set that brings its own order (`PackedRows.epoch_sampler`).
        """
        dataset = train_dataset if train_dataset is not None else self.train_dataset
        dataset = dataset.rows if isinstance(dataset, PairedRows) else dataset
        dealt = {
            "processes": 1 if self.accelerator.split_batches else self.accelerator.num_processes,
            "accumulation": self.args.gradient_accumulation_steps,
        }
        if hasattr(dataset, "epoch_sampler"):
            self._epoch_order = dataset.epoch_sampler(self._data_seed, self._train_batch_size, **dealt)
            return self._epoch_order
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        column = self.args.length_column_name  # of `dataset` it is removed by now
        named = column in getattr(self.train_dataset, "column_names", [])
        lengths = lengths_of(self.train_dataset if named else dataset, column)
        self._epoch_order = LengthGroupedSampler(lengths, self._train_batch_size, self._data_seed, **dealt)
        return self._epoch_order

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        """In the data set's own order, also where training groups by length: predictions are written row by row."""
        strategy = self.args.train_sampling_strategy
        self.args.train_sampling_strategy = "random"
        try:
            return super()._get_eval_sampler(eval_dataset)
        finally:
            self.args.train_sampling_strategy = strategy


def _num_tokens(pair: Pair) -> int | None:
    """How many tokens both models have embeddings for, where they tell."""
    reading = (pair.student, pair.teacher if pair.across is None else None)
    known = [shape.vocab_size for shape in reading if shape is not None and shape.vocab_size > 0]
    return min(known, default=None)


def _num_classes(pair: Pair) -> int | None:
    """How many classes a label may be, where labels are classes."""
    of_classes = pair.task.form == "softmax" and pair.task.label_names == ("labels",)
    return pair.student.num_logits or None if of_classes else None


def _ordering(loader: DataLoader[Any]) -> Any:
    """The sampler, of rows or of batches, that is told the epoch, beneath what shares batches out among processes."""
    place: Any = loader
    while hasattr(place, "batch_sampler"):
        place = place.batch_sampler
    return next((each for each in (place, getattr(place, "sampler", None)) if hasattr(each, "set_epoch")), None)
