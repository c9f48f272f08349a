"""Rows in the order of epochs, and streams without end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_distill.data import packing
from hf_distill.data.masking import Masking, Padding
from hf_distill.data.packing import Layout
from hf_distill.data.pretraining import PackedRows, PackedStream
from hf_distill.data.streams import Source
from hf_distill.data.token_store import TokenStore, stored
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED
from tests import tiny_runs

TOKENIZER = tiny_runs.tokenizer()
LAYOUT = Layout.of(TOKENIZER, 12)
MASKING = Masking(TOKENIZER, seed=3)


class Sentences(Source):
    def __init__(self, start: int, number: int) -> None:
        self.start, self.number = start, number
        self.name = f"sentences {start}"

    def identity(self) -> str:
        return f"{self.start} {self.number}"

    def documents(self) -> Iterator[str]:
        return (tiny_runs.sentence(self.start + i)[0] for i in range(self.number))


@pytest.fixture
def stores(tmp_path: Path) -> list[TokenStore]:
    sources = (Sentences(0, 60), Sentences(100, 20))
    return [stored(source, TOKENIZER, LAYOUT, tmp_path) for source in sources]


def original(row: dict[str, Any]) -> list[int]:
    """The token ids before masking."""
    return np.where(row["labels"] == IGNORED, row["input_ids"], row["labels"]).tolist()


def epoch(rows: PackedRows, number: int, seed: int = 0) -> list[int]:
    sampler = rows.epoch_sampler(seed, 4)
    sampler.set_epoch(number)
    found = list(sampler)
    assert len(found) == len(sampler)
    return found


# ---- rows ----


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(stores: list[TokenStore]) -> None:
    rows = PackedRows(stores, MASKING)
    assert len(rows) == sum(map(len, stores))
    orders = [epoch(rows, number) for number in range(3)]
    for number, order in enumerate(orders):
        assert sorted(order) == list(range(number * len(rows), (number + 1) * len(rows)))
    assert len({tuple(n % len(rows) for n in order) for order in orders}) == 3
    assert epoch(rows, 1, seed=1) != orders[1] == epoch(rows, 1)
    wanted = [store.row(i).tolist() for store in stores for i in range(len(store))]
    for order in orders:
        assert [original(rows[n]) for n in sorted(order)] == wanted


def test_masks_are_of_the_epoch_and_the_row(stores: list[TokenStore]) -> None:
    rows = PackedRows(stores, MASKING)
    for number in (0, len(rows) - 1, 5 + 2 * len(rows)):
        turn, store, row = rows.place(number)
        example = row + (len(stores[0]) if store else 0)
        hidden, labels = MASKING(stores[store].row(row), turn, example)
        assert rows[number]["input_ids"].tolist() == hidden.tolist()
        assert rows[number]["labels"].tolist() == labels.tolist()
    assert rows[1]["labels"].tolist() != rows[1 + len(rows)]["labels"].tolist()


def test_a_mixture_has_its_shares_and_goes_on_where_it_stopped(stores: list[TokenStore]) -> None:
    rows = PackedRows(stores, MASKING, weights=[1.0, 3.0])
    large, small = map(len, stores)
    quota = [round(len(rows) / 4), len(rows) - round(len(rows) / 4)]
    assert quota[1] > small
    taken: list[list[tuple[int, int]]] = [[], []]
    for number in range(4):
        places = [rows.place(n) for n in epoch(rows, number)]
        assert [sum(store == s for _, store, _ in places) for s in (0, 1)] == quota
        for turn, store, row in places:
            taken[store].append((turn, row))
    for size, found in zip((large, small), taken, strict=True):
        assert len(set(found)) == len(found)
        turns = Counter(turn for turn, _ in found)
        assert [turns[turn] for turn in range(len(found) // size)] == [size] * (len(found) // size)


def test_held_out_rows_are_in_no_epoch(stores: list[TokenStore]) -> None:
    rows = PackedRows(stores, MASKING, weights=[1.0, 1.0])
    train, kept = rows.held_out(7, Masking(TOKENIZER, evaluation=True))
    assert (len(train), len(kept)) == (len(rows) - 7, 7)
    held = {kept.place(i)[1:] for i in range(7)}
    assert {store for store, _ in held} == {0, 1}
    seen = {train.place(n)[1:] for number in range(6) for n in epoch(train, number)}
    assert not held & seen
    assert held | seen == {(s, r) for s, store in enumerate(stores) for r in range(len(store))}
    again = rows.held_out(7, Masking(TOKENIZER, evaluation=True))[1]
    assert all(np.array_equal(kept[i]["input_ids"], again[i]["input_ids"]) for i in range(7))
    # a row keeps its masks when others are held out
    place = train.place(0)
    number = next(i for i in range(len(rows)) if rows.place(i) == place)
    assert np.array_equal(train[0]["labels"], rows[number]["labels"])
    with pytest.raises(DataError, match="cannot be held out"):
        rows.held_out(len(rows) // 2 + 1, MASKING)


def test_held_out_of_a_store_too_small_for_a_share(stores: list[TokenStore]) -> None:
    _, kept = PackedRows(stores, MASKING).held_out(1, MASKING)
    assert [kept.place(i)[1:] for i in range(len(kept))] == [(0, 0)]


def test_the_first_rows(stores: list[TokenStore]) -> None:
    rows = PackedRows(stores, MASKING)
    assert rows.first(None) is rows
    assert rows.first(1000) is rows
    few = rows.first(8)
    shares = Counter(few.place(i)[1] for i in range(8))
    assert shares == {0: 6, 1: 2}
    assert {few.place(i)[2] for i in range(8)} == set(range(6))


def test_rows_of_unequal_length_come_together(tmp_path: Path) -> None:
    store = stored(Sentences(0, 400), TOKENIZER, Layout.of(TOKENIZER, 12, "none"), tmp_path)
    rows = PackedRows([store], MASKING)
    order = epoch(rows, 1)
    assert sorted(order) == list(range(len(rows), 2 * len(rows)))
    lengths = np.array([len(rows[n]["input_ids"]) for n in order]).reshape(-1, 4)
    assert (np.ptp(lengths, axis=1) == 0).mean() > 0.8
    assert len(set(lengths[:20, 0])) > 1


def test_full_rows_are_shuffled_freely(tmp_path: Path) -> None:
    """The last row of a source is short; that is no reason to group all others, by a window of batches, by length."""
    rows = PackedRows([stored(Sentences(0, 61), TOKENIZER, LAYOUT, tmp_path)], MASKING)
    lengths = rows.lengths()
    assert lengths.min() < lengths.max() - 1
    orders = [list(rows.epoch_sampler(0, window)) for window in (2, 4, 16)]
    assert orders[0] == orders[1] == orders[2]


def test_batches_with_a_budget_hold_the_rows_of_their_epoch(tmp_path: Path) -> None:
    layout = Layout.of(TOKENIZER, 16, "none")
    rows = PackedRows([stored(Sentences(0, 61), TOKENIZER, layout, tmp_path)], MASKING)
    assert len(set(rows.lengths())) > 2
    batches = rows.epoch_batches(3, 40)
    for epoch_ in (0, 2):
        batches.set_epoch(epoch_)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        numbers = sorted(number for batch in drawn for number in batch)
        assert numbers == list(range(epoch_ * len(rows), (epoch_ + 1) * len(rows)))
        assert max(Padding(0)([rows[n] for n in batch])["input_ids"].numel() for batch in drawn) <= 40
    weighted = PackedRows(rows.stores, MASKING, weights=[1.0])
    with pytest.raises(DataError, match="does not go with weights of text sources"):
        weighted.epoch_batches(3, 40)


def test_settings_that_cannot_be(stores: list[TokenStore]) -> None:
    with pytest.raises(DataError, match="each needs some"):
        PackedRows([], MASKING)
    for weights in ([1.0], [1.0, 0.0]):
        with pytest.raises(DataError, match="2 sources have the weights"):
            PackedRows(stores, MASKING, weights=weights)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_make_the_same_batches(stores: list[TokenStore], workers: int) -> None:
    rows = PackedRows(stores, MASKING)
    sampler = rows.epoch_sampler(0, 4)
    sampler.set_epoch(2)
    loader = DataLoader(rows, 4, sampler=sampler, collate_fn=Padding(0), num_workers=workers)
    expected = Padding(0)([rows[n] for n in epoch(rows, 2)[:4]])
    first = next(iter(loader))
    assert all(torch.equal(first[name], expected[name]) for name in expected)


# ---- streams ----


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK_DOCUMENTS", 7)


def stream(*sources: Source, weights: list[float] | None = None, shuffle: int = 1, seed: int = 0) -> PackedStream:
    given = sources or (Sentences(0, 60),)
    return PackedStream(given, TOKENIZER, LAYOUT, MASKING, weights=weights, shuffle=shuffle, seed=seed)


def taken(found: Any, number: int) -> list[list[int]]:
    return [original(row) for row in islice(found, number)]


@pytest.mark.usefixtures("small_chunks")
def test_a_stream_goes_through_the_text_again_and_again_with_other_masks() -> None:
    rows = list(islice(stream(), 200))
    texts = [tuple(original(row)) for row in rows]
    length = texts[1:].index(texts[0]) + 1  # a buffer of one row keeps the order
    while texts[:length] != texts[length : 2 * length]:
        length += texts[length + 1 :].index(texts[0]) + 1
    assert sum(token not in TOKENIZER.all_special_ids for text in texts[:length] for token in text) == sum(
        len(document.split()) for document in Sentences(0, 60).documents()
    )
    first, second = rows[:length], rows[length : 2 * length]
    assert sum(np.array_equal(a["labels"], b["labels"]) for a, b in zip(first, second, strict=True)) < length / 4


@pytest.mark.usefixtures("small_chunks")
def test_a_stream_is_the_same_every_time_and_shuffled_by_its_seed() -> None:
    shuffled = [list(islice(stream(shuffle=9, seed=seed), 100)) for seed in (0, 0, 1)]
    for a, b in zip(*shuffled[:2], strict=True):
        assert np.array_equal(a["input_ids"], b["input_ids"])
        assert np.array_equal(a["labels"], b["labels"])
    plain = taken(stream(), 100)
    orders = [[original(row) for row in rows] for rows in shuffled]
    assert orders[0] != plain
    assert orders[0] != orders[2]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("documents", [60, 5])
def test_workers_share_a_stream_without_overlap(documents: int) -> None:
    """Five documents are one chunk: the second worker has to wait for the second pass."""
    alone = PackedStream([Sentences(0, documents)], TOKENIZER, LAYOUT, Named(), shuffle=1)
    loader = DataLoader(alone, batch_size=None, num_workers=2)
    found = [named(row) for row in islice(loader, 60)]
    assert found == [named(row) for row in islice(loader, 60)]
    assert len({name for name, _ in found}) == len(found)
    assert dict(found).items() <= dict(named(row) for row in islice(alone, 200)).items()


class Silent(Sentences):
    def __init__(self, start: int, number: int) -> None:
        super().__init__(start, number)
        self.reads = 0

    def documents(self) -> Iterator[str]:
        self.reads += 1
        if self.reads > 9:
            raise AssertionError("a stream without tokens is read for ever")
        return iter(["\u200b"])


def test_a_stream_without_tokens_is_not_read_for_ever() -> None:
    with pytest.raises(DataError, match=r"sentences 0: .* no token"):
        next(iter(stream(Silent(0, 1))))


class Named(Masking):
    """Leaves rows as they are, and puts epoch and example in the place of their labels."""

    def __init__(self) -> None:
        super().__init__(TOKENIZER)

    def __call__(self, ids: Any, epoch: int, example: int) -> Any:
        return ids, np.array([epoch, example])


def named(row: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return tuple(row["labels"].tolist()), tuple(row["input_ids"].tolist())


@pytest.mark.usefixtures("small_chunks")
def test_a_stream_of_several_sources_is_mixed() -> None:
    sources = (Sentences(0, 300), Sentences(100, 300))
    assert taken(stream(*sources, weights=[1.0, 3.0]), 50) == taken(stream(*sources, weights=[1.0, 3.0]), 50)
    assert taken(stream(*sources, weights=[1.0, 3.0]), 50) != taken(stream(*sources, weights=[3.0, 1.0]), 50)
    with pytest.raises(DataError, match="a stream of 2 sources needs a weight for each"):
        stream(*sources)
