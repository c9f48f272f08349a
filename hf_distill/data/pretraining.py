"""The rows of training on raw text: masked or not, in the order of epochs, out of stores or out of streams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info
from transformers import PreTrainedTokenizerBase

from hf_distill.data.batching import LengthGroupedSampler, TokenBudgetSampler
from hf_distill.data.masking import Ids, Labelling
from hf_distill.data.packing import Layout, Packer, chunks, token_ids
from hf_distill.data.streams import Source, interleaved
from hf_distill.data.token_store import TokenStore
from hf_distill.errors import DataError

Row = dict[str, Ids]

_ORDER, _MIX, _BUFFER = 3, 4, 5
"""Keys that set the draws of one seed apart."""


def random_of(seed: int, purpose: int, *counter: int) -> np.random.Generator:
    """The random numbers of a purpose, keyed by seed and up to two more numbers."""
    places = [0, 0, *counter, 0, 0][:4]
    return np.random.Generator(np.random.Philox(key=[seed, purpose], counter=places))


class PackedRows(Dataset[Row]):
    """The rows of one or several stores, each masked when it is read (or, without a masking, as it is).

    A number says row and epoch at once: `epoch * len(rows) + row`. So the epoch reaches worker processes with every
    row, the mask follows from `(seed, epoch, row)`, and nothing has to be told when an epoch begins. `epoch_sampler`
    draws such numbers; with any other sampler all epochs are epoch 0.

    `weights`: how much of an epoch comes from each store. An epoch has as many rows as there are in all, and a store
    whose share is larger than its size is read more than once in it, each time in another order and with other masks;
    of one whose share is smaller, the next epoch goes on where this one stopped. Without weights every row comes once.

    Errors: DataError for no store or no row, and for weights that are not one number above 0 a store.
    """

    def __init__(
        self,
        stores: Sequence[TokenStore],
        masking: Labelling | None,
        *,
        weights: Sequence[float] | None = None,
        chosen: Sequence[NDArray[np.int64]] | None = None,
    ) -> None:
        self.stores, self.masking = tuple(stores), masking
        self.weights = None if weights is None else tuple(weights)
        self.chosen = tuple(np.arange(len(store)) for store in stores) if chosen is None else tuple(chosen)
        self.sizes = tuple(len(rows) for rows in self.chosen)
        if not self.sizes or not all(self.sizes):
            raise DataError(f"text: the sources have {list(self.sizes)} rows to train on; each needs some.")
        if self.weights is not None and (len(self.weights) != len(self.sizes) or not all(w > 0 for w in self.weights)):
            raise DataError(
                f"text: {len(self.sizes)} sources have the weights {list(self.weights)}; give each one > 0."
            )
        self._firsts = np.cumsum((0, *self.sizes))
        self._examples = np.cumsum((0, *(len(store) for store in stores)))

    def __len__(self) -> int:
        return int(self._firsts[-1])

    @property
    def column_names(self) -> list[str]:
        """The columns of a row."""
        return ["input_ids"] if self.masking is None else ["input_ids", "labels"]

    def place(self, number: int) -> tuple[int, int, int]:
        """Epoch, store and row in the store of a number."""
        epoch, position = divmod(number, len(self))
        store = int(np.searchsorted(self._firsts, position, side="right")) - 1
        return epoch, store, int(self.chosen[store][position - self._firsts[store]])

    def __getitem__(self, number: int) -> Row:
        epoch, store, row = self.place(number)
        return _masked(self.masking, self.stores[store].row(row), epoch, int(self._examples[store]) + row)

    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every row."""
        return np.concatenate([s.lengths()[rows] for s, rows in zip(self.stores, self.chosen, strict=True)])

    def epoch_sampler(self, seed: int, batch_size: int, *, processes: int = 1, accumulation: int = 1) -> EpochSampler:
        """The order of training: rows of unequal length come together by length, as in `LengthGroupedSampler`."""
        return EpochSampler(self, seed, batch_size, processes=processes, accumulation=accumulation)

    def epoch_batches(self, seed: int, tokens: int, *, processes: int = 1, drop_last: bool = False) -> EpochBatches:
        """The batches of training where each has a budget of tokens, as in `TokenBudgetSampler`.

        Errors: DataError for weights, with which epochs differ in their rows and so would in their batches.
        """
        if self.weights is not None:
            raise DataError(
                "tokens_per_batch does not go with weights of text sources, which give every epoch other rows; leave "
                "out one of them."
            )
        return EpochBatches(self, seed, tokens, processes=processes, drop_last=drop_last)

    def held_out(self, number: int, masking: Labelling | None) -> tuple[PackedRows, PackedRows]:
        """The rows without some that are kept for evaluation, and those, masked by `masking`.

        Kept are, of each store, rows at equal distances, `number` of all in proportion to the stores' sizes.

        Errors: DataError where less than half of the rows would be left, or none kept.
        """
        if not 0 < number <= len(self) // 2:
            raise DataError(f"text: {number} of {len(self)} rows cannot be held out; keep at least half to train on.")
        shares = _shares(self.sizes, number)
        places = [np.arange(share) * size // max(share, 1) for size, share in zip(self.sizes, shares, strict=True)]
        left = [np.delete(rows, each) for rows, each in zip(self.chosen, places, strict=True)]
        kept = [rows[each] for rows, each in zip(self.chosen, places, strict=True)]
        some = [i for i, rows in enumerate(kept) if len(rows)]
        return (
            PackedRows(self.stores, self.masking, weights=self.weights, chosen=left),
            PackedRows([self.stores[i] for i in some], masking, chosen=[kept[i] for i in some]),
        )

    def first(self, number: int | None) -> PackedRows:
        """The first rows of each store, `number` of all in proportion to the stores' sizes; None is all of them."""
        if number is None or number >= len(self):
            return self
        shares = _shares(self.sizes, number)
        some = [i for i, share in enumerate(shares) if share]
        weights = None if self.weights is None else [self.weights[i] for i in some]
        chosen = [self.chosen[i][: shares[i]] for i in some]
        return PackedRows([self.stores[i] for i in some], self.masking, weights=weights, chosen=chosen)


class EpochSampler(Sampler[int]):
    """Numbers of `PackedRows` for one epoch: a shuffle of the rows that the epoch takes of each store.

    Rows of `packing: full` are shuffled freely. Where half of the rows are shorter than the longest (`packing: none`),
    those of similar length come together, as in `LengthGroupedSampler`. The order follows from `(seed, epoch)` alone;
    the epoch is set by `set_epoch`, and every process gives the same order.
    """

    def __init__(
        self, rows: PackedRows, seed: int, batch_size: int, *, processes: int = 1, accumulation: int = 1
    ) -> None:
        self.rows, self.seed, self.batch_size = rows, seed, batch_size
        self.processes, self.accumulation = processes, accumulation
        self.epoch = 0
        ends = _shares(rows.weights, len(rows)) if rows.weights is not None else list(rows.sizes)
        self.quotas = ends
        lengths = rows.lengths()
        self._lengths = lengths if np.median(lengths) < lengths.max() - _SAME else None

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order of that epoch, counted from 0, for the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(self.quotas)

    def __iter__(self) -> Iterator[int]:
        numbers = np.concatenate([self._of_store(i, quota) for i, quota in enumerate(self.quotas)])
        order = self._order(numbers)
        for start in range(0, len(order), 4096):
            yield from numbers[order[start : start + 4096]].tolist()

    def _of_store(self, store: int, quota: int) -> NDArray[np.int64]:
        """The next `quota` draws of a store, which is gone through again and again, shuffled anew each time."""
        size, first = self.rows.sizes[store], int(self.rows._firsts[store])
        start = self.epoch * quota
        found = []
        for turn in range(start // size, (start + quota - 1) // size + 1 if quota else 0):
            order = random_of(self.seed, _ORDER, turn, store).permutation(size)
            part = order[max(start - turn * size, 0) : start + quota - turn * size]
            found.append(part + first + turn * len(self.rows))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def _order(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        if self._lengths is None:
            return random_of(self.seed, _MIX, self.epoch).permutation(len(numbers))
        grouped = LengthGroupedSampler(
            self._lengths[numbers % len(self.rows)],
            self.batch_size,
            self.seed,
            processes=self.processes,
            accumulation=self.accumulation,
        )
        grouped.set_epoch(self.epoch)
        return np.fromiter(grouped, dtype=np.int64, count=len(numbers))


class EpochBatches(TokenBudgetSampler):
    """Batches of `PackedRows`' numbers, each of at most `tokens` cells."""

    def __init__(
        self, rows: PackedRows, seed: int, tokens: int, *, processes: int = 1, drop_last: bool = False
    ) -> None:
        super().__init__(rows.lengths(), tokens, seed, processes=processes, drop_last=drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        first = self.epoch * len(self.lengths)
        for batch in super().__iter__():
            yield [first + row for row in batch]


_SAME = 1
"""Rows of `packing: full` are at most so many tokens short, but for the last of a source. Where half of the rows are
shorter, grouping saves padding."""


class PackedStream(IterableDataset[Row]):
    """Rows packed and masked while their text is read, without end: for corpora that are not to be put on the disk.

    Documents are tokenised and packed in chunks (`hf_distill.data.packing.chunks`), so that a row is named by its
    chunk and its place in it, and the mask follows from `(seed, pass, chunk, place)`. Chunks are dealt out to the
    workers of a loader; each of them reads all of the text and tokenises its own part. A buffer of `shuffle` rows is
    kept, of which one at random is given out when the next comes in.

    After the last document the sources are read again, with other masks; training ends by `max_steps`. The order
    follows from seed and number of workers alone, and a resumed run comes to the same rows by skipping, for which the
    text before them is read once more. With several processes accelerate lets the first one read for all of them.

    Errors: those of the sources, and of `interleaved` for their weights; DataError for documents without a token.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: PreTrainedTokenizerBase,
        layout: Layout,
        masking: Labelling | None,
        *,
        weights: Sequence[float] | None = None,
        shuffle: int = 10_000,
        seed: int = 0,
    ) -> None:
        if len(sources) > 1 and weights is None:
            raise DataError(
                f"text: a stream of {len(sources)} sources needs a weight for each, as none knows its size."
            )
        self.sources, self.weights = tuple(sources), tuple(weights or (1.0,))
        self.tokenizer, self.layout, self.masking = tokenizer, layout, masking
        self.shuffle, self.seed = max(shuffle, 1), seed

    def __iter__(self) -> Iterator[Row]:
        worker = get_worker_info()
        own, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        random = random_of(self.seed, _BUFFER, own, workers)
        buffer: list[tuple[Ids, int, int]] = []
        for row in self._rows(own, workers):
            if len(buffer) < self.shuffle:
                buffer.append(row)
                continue
            place = int(random.integers(self.shuffle))
            (ids, epoch, example), buffer[place] = buffer[place], row
            yield _masked(self.masking, ids.astype(np.int64), epoch, example)

    def _rows(self, own: int, workers: int) -> Iterator[tuple[Ids, int, int]]:
        """Token ids, pass and name of this worker's rows, pass after pass.

        Chunks are dealt out on through the passes, so that of a text with less chunks than workers each has some.
        """
        epoch = dealt = found = 0
        while True:
            for number, chunk in enumerate(chunks(self._documents(epoch))):
                dealt += 1
                if dealt % workers == own:
                    for place, row in enumerate(self._packed(chunk)):
                        found += 1
                        yield np.asarray(row, dtype=np.int32), epoch, (number << _PLACES) + place
            epoch += 1
            if not found and epoch >= workers:  # each worker has had a chunk by then
                names = ", ".join(source.name for source in self.sources)
                raise DataError(
                    f"{names}: read as a whole, and there was no token to {type(self.tokenizer).__name__}."
                )

    def _packed(self, chunk: list[str]) -> Iterator[list[int]]:
        packer = Packer(self.layout)
        for ids in token_ids(self.tokenizer, chunk):
            yield from packer.add(ids)
        yield from packer.rest()

    def _documents(self, epoch: int) -> Iterator[str]:
        if len(self.sources) == 1:
            return self.sources[0].documents()
        return interleaved(self.sources, self.weights, self.seed, epoch)


_PLACES = 24
"""Bits for the place of a row in its chunk: a chunk has fewer characters than that."""


def _masked(masking: Labelling | None, ids: Ids, epoch: int, example: int) -> Row:
    if masking is None:
        return {"input_ids": ids}
    hidden, labels = masking(ids, epoch, example)
    return {"input_ids": hidden, "labels": labels}


def _shares(weights: Sequence[float], total: int) -> list[int]:
    """`total` divided in proportion to the weights, whole, by the largest remainders."""
    exact: Any = np.asarray(weights, dtype=np.float64) / sum(weights) * total
    shares = np.floor(exact).astype(np.int64)
    for i in np.argsort(shares - exact, kind="stable")[: total - int(shares.sum())]:
        shares[i] += 1
    return [int(share) for share in shares]
