"""Rows on disk."""

from __future__ import annotations

import json
import os
import pickle
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hf_distill.data import packing, token_store
from hf_distill.data.packing import Layout, Packer, token_ids
from hf_distill.data.streams import Source, TextFiles
from hf_distill.data.token_store import TokenStore, stored
from hf_distill.errors import DataError
from tests import tiny_runs

TOKENIZER = tiny_runs.tokenizer()
LAYOUT = Layout.of(TOKENIZER, 12)


class Counted(Source):
    """Documents, and how often they were asked for."""

    name = "counted"

    def __init__(self, documents: list[str], tag: str = "") -> None:
        self.texts, self.tag, self.reads = documents, tag, 0

    def identity(self) -> str:
        return f"{self.tag}{len(self.texts)}"

    def documents(self) -> Iterator[str]:
        self.reads += 1
        yield from self.texts


def corpus(number: int = 2500) -> list[str]:
    return [tiny_runs.sentence(i)[0] for i in range(number)]


def expected(documents: list[str]) -> list[list[int]]:
    packer = Packer(LAYOUT)
    rows = [row for document in documents for row in packer.add(token_ids(TOKENIZER, [document])[0])]
    return [*rows, *packer.rest()]


def test_rows_come_back_as_they_were_packed(tmp_path: Path) -> None:
    documents = corpus()
    store = stored(Counted(documents), TOKENIZER, LAYOUT, tmp_path)
    rows = expected(documents)
    assert len(store) == len(rows)
    assert [store.row(i).tolist() for i in range(len(store))] == rows
    assert store.row(3).dtype == np.int64
    assert store.lengths().tolist() == [len(row) for row in rows]
    count = Counter(token for row in rows for token in row)
    assert store.counts.tolist() == [count[i] for i in range(len(TOKENIZER))]
    assert (store.facts.documents, store.facts.rows) == (len(documents), len(rows))
    assert store.facts.tokens == sum(map(len, rows))
    assert store.facts.dtype == "uint16"


def test_a_store_is_made_once_for_a_source_a_tokenizer_and_a_layout(tmp_path: Path) -> None:
    source = Counted(corpus(30))
    first = stored(source, TOKENIZER, LAYOUT, tmp_path)
    assert stored(Counted(corpus(30)), tiny_runs.tokenizer(), LAYOUT, tmp_path).folder == first.folder
    assert source.reads == 1
    words = [*tiny_runs.WORDS[:-2], tiny_runs.WORDS[-1], tiny_runs.WORDS[-2]]
    others = [
        stored(Counted(corpus(31)), TOKENIZER, LAYOUT, tmp_path),
        stored(source, TOKENIZER, Layout.of(TOKENIZER, 13), tmp_path),
        stored(source, TOKENIZER, Layout.of(TOKENIZER, 12, "none"), tmp_path),
        stored(source, tiny_runs.tokenizer(words), LAYOUT, tmp_path),
    ]
    assert len({first.folder, *(other.folder for other in others)}) == 5
    limited = tiny_runs.tokenizer()
    limited("good", truncation=True, max_length=4, padding="max_length")  # leaves traces in the tokenizer's file
    assert stored(source, limited, LAYOUT, tmp_path).folder == first.folder


def test_two_that_want_the_same_store_at_once_make_it_once(tmp_path: Path) -> None:
    source = Counted(corpus(200))
    found: list[TokenStore] = []
    threads = [
        threading.Thread(target=lambda: found.append(stored(source, TOKENIZER, LAYOUT, tmp_path))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.reads == 1
    assert found[0].folder == found[1].folder


def test_what_a_broken_off_run_left_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Counted):
        def documents(self) -> Iterator[str]:
            yield from super().documents()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(Stopped(corpus(1500)), TOKENIZER, LAYOUT, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.suffix != ".part"]
    assert len(stored(Counted(corpus(1500)), TOKENIZER, LAYOUT, tmp_path)) == len(expected(corpus(1500)))
    assert not list(tmp_path.glob("*.part"))


def test_a_damaged_store_is_refused(tmp_path: Path) -> None:
    store = stored(Counted(corpus(30)), TOKENIZER, LAYOUT, tmp_path)
    tokens, facts = store.folder / token_store.TOKENS, store.folder / token_store.FACTS
    whole, told = tokens.read_bytes(), facts.read_text()
    tokens.write_bytes(whole[:-2])
    with pytest.raises(DataError, match=rf"holds .* {len(whole) - 2} bytes .* and {len(whole)}; remove the folder"):
        TokenStore(store.folder)
    tokens.write_bytes(whole)
    for broken in ("{", "[]", json.dumps({**json.loads(told), "more": 1}), told.replace("uint16", "object")):
        facts.write_text(broken)
        with pytest.raises(DataError, match="remove"):
            TokenStore(store.folder)
    facts.write_text(told)
    for name in (token_store.ENDS, token_store.COUNTS):
        content = (store.folder / name).read_bytes()
        (store.folder / name).write_bytes(bytes(len(content)))  # as after a loss of power
        with pytest.raises(DataError, match="remove the folder"):
            TokenStore(store.folder)
        (store.folder / name).unlink()
        with pytest.raises(DataError, match="remove the folder"):
            TokenStore(store.folder)
        (store.folder / name).write_bytes(content)
    assert len(TokenStore(store.folder)) == len(store)


def test_a_disk_that_takes_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="the tokens of counted cannot be stored"):
        stored(Counted(corpus(3)), TOKENIZER, LAYOUT, tmp_path / "file")


def test_a_source_without_tokens(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its 1 documents are no tokens"):
        stored(Counted(["\u200b"]), TOKENIZER, LAYOUT, tmp_path)


def test_a_store_travels_to_another_process_without_its_file(tmp_path: Path) -> None:
    store = stored(Counted(corpus(30)), TOKENIZER, LAYOUT, tmp_path)
    row = store.row(1).tolist()
    copy = pickle.loads(pickle.dumps(store))
    assert copy._file is None
    assert copy.row(1).tolist() == row
    opened = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else 0
    del store, copy
    assert not opened or len(os.listdir("/proc/self/fd")) == opened - 2


def test_files_are_read_in_constant_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading, tokenising and packing hold a chunk at a time: the peak does not follow the size of the file."""
    monkeypatch.setattr(packing, "CHUNK_CHARACTERS", 2**13)
    peaks = []
    for kilobytes in (128, 512):
        path = tmp_path / f"{kilobytes}.txt"
        line = " ".join(corpus(12)) + "\n"
        path.write_text(line * (kilobytes * 2**10 // len(line)))
        tracemalloc.start()
        stored(TextFiles((path,)), TOKENIZER, LAYOUT, tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # what grows are eight bytes a row
    assert peaks[1] < peaks[0] + 2**17
