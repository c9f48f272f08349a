"""Documents from files and from the Hub."""

from __future__ import annotations

import gzip
import json
import pickle
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from huggingface_hub.errors import HfHubHTTPError

from hf_distill.data import streams
from hf_distill.data.streams import First, HubText, Source, TextFiles, interleaved
from hf_distill.errors import DataError


def written(path: Path, content: bytes | str) -> Path:
    data = content.encode() if isinstance(content, str) else content
    if path.suffix == ".gz":
        data = gzip.compress(data)
    path.write_bytes(data)
    return path


def read(path: Path, **settings: Any) -> list[str]:
    return list(TextFiles((path,), **settings).documents())


# ---- files ----


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "A.TXT"])
def test_a_document_is_a_line(name: str, tmp_path: Path) -> None:
    path = written(tmp_path / name, "\ufeff one \r\n\n \t\ntwo ä\nthree")
    assert read(path) == ["one", "two ä", "three"]


def test_a_document_is_a_paragraph(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "\n\none\ntwo\n \n\nthree\n\n")
    assert read(path, unit="paragraph") == ["one\ntwo", "three"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_document_is_a_cell_of_json_lines(name: str, tmp_path: Path) -> None:
    rows = [{"body": "one\ntwo", "n": 1}, {"body": " "}, {"body": "three"}]
    path = written(tmp_path / name, "\n".join(map(json.dumps, rows)))
    assert read(path, column="body") == ["one\ntwo", "three"]


def test_a_document_is_a_cell_of_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"text": ["one", "", "two"], "n": [1, 2, 3]}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet") == ["one", "two"]


def test_files_are_read_in_the_order_given(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}.txt", f"{name}1\n{name}2") for name in "ba"]
    source = TextFiles(tuple(paths))
    assert list(source.documents()) == ["b1", "b2", "a1", "a2"]
    assert list(source.documents()) == ["b1", "b2", "a1", "a2"]
    assert source.name == "b.txt and 1 more"


@pytest.mark.parametrize("unit", ["line", "paragraph"])
def test_a_file_of_one_long_line_is_cut(unit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut never falls into a character: each ä is two bytes, and the pieces are of seven."""
    monkeypatch.setattr(streams, "LONGEST", 7)
    path = written(tmp_path / "a.txt", "ä" * 40 + "\nb")
    found = read(path, unit=unit)
    assert "".join(found).replace("\n", "") == "ä" * 40 + "b"
    assert max(map(len, found)) <= 2 * 7
    cells = written(tmp_path / "a.jsonl", json.dumps({"text": "x" * 16}))
    assert read(cells) == ["x" * 7, "x" * 7, "xx"]


def test_the_identity_is_of_content_and_reading(tmp_path: Path) -> None:
    first, second = written(tmp_path / "a.txt", "one\ntwo"), written(tmp_path / "b.txt", "one\ntwo")
    other = written(tmp_path / "c.txt", "one\ntwo!")
    identity = TextFiles((first,)).identity()
    assert identity == TextFiles((second,)).identity()
    assert identity != TextFiles((other,)).identity()
    assert identity != TextFiles((first,), unit="paragraph").identity()
    assert identity != TextFiles((first, second)).identity()


BROKEN: dict[str, tuple[str, bytes, str]] = {
    "not utf-8": ("a.txt", b"one\ntw\xff\n", r"a\.txt, line 2: not UTF-8"),
    "utf-16": ("a.txt", "one".encode("utf-16"), "line 1: not UTF-8"),
    "cut in a character": ("a.txt", "one\nä".encode()[:-1], "line 2: not UTF-8"),
    "empty": ("a.txt", b"", r"a\.txt: holds no text"),
    "blank": ("a.txt", b"\n \n\t\n", r"a\.txt: holds no text"),
    "blank cells": ("a.jsonl", b'{"text": ""}\n{"text": " "}\n', "holds no text"),
    "no json": ("a.jsonl", b'{"text": "x"}\n{"text"\n', "line 2: not JSON"),
    "no object": ("a.jsonl", b'["x"]\n', "line 1: holds .* not an object"),
    "no column": ("a.jsonl", b'{"txt": "x"}\n', "line 1: no column 'text'; did you mean 'txt'"),
    "no text": ("a.jsonl", b'{"text": "x"}\n{"text": 3}\n', r"line 2, column 'text': holds 3 \(int\), expected text"),
    "null": ("a.jsonl", b'{"text": null}\n', "holds null, expected text"),
    "surrogate": ("a.jsonl", b'{"text": "\\ud800"}\n', "line 1, column 'text': .*surrogates not allowed"),
    "no parquet": ("a.parquet", b"PAR1 not", r"a\.parquet: not readable as parquet"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_with_the_line(case: str, tmp_path: Path) -> None:
    name, content, message = BROKEN[case]
    with pytest.raises(DataError, match=message):
        read(written(tmp_path / name, content))


def test_a_damaged_archive(tmp_path: Path) -> None:
    whole = gzip.compress(b"".join(b"%d\n" % i for i in range(5000)))
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.txt\.gz: not readable as txt: .*end-of-stream"):
        read(tmp_path / "a.txt.gz")
    (tmp_path / "b.txt.gz").write_bytes(b"plain")
    with pytest.raises(DataError, match=r"b\.txt\.gz: not readable as txt"):
        read(tmp_path / "b.txt.gz")


def test_parquet_without_the_column(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"content": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"no column 'text'; .*known: content"):
        read(tmp_path / "a.parquet")


def test_settings_that_cannot_be(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "x")
    with pytest.raises(DataError, match=r"no such file; .* holds a\.txt"):
        TextFiles((tmp_path / "b.txt",))
    with pytest.raises(DataError, match=r"unknown format '\.csv'"):
        TextFiles((tmp_path / "b.csv",))
    with pytest.raises(DataError, match=r"unknown format '\.parquet'"):
        TextFiles((tmp_path / "b.parquet.gz",))
    with pytest.raises(DataError, match="did you mean 'line'"):
        TextFiles((path,), unit="lines")
    with pytest.raises(DataError, match="name at least one"):
        TextFiles(())


# ---- the Hub ----


COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Asked:
    """Stands for the Hub: `rows` are streamed, and `calls` keeps what was asked. Its branches move all the time: the
    first commit is `COMMIT`, and each that it is asked for is another."""

    def __init__(self, rows: list[dict[str, Any]], error: Exception | None = None) -> None:
        self.rows, self.error, self.calls = rows, error, []  # type: ignore[var-annotated]
        self.commits = (f"{int(COMMIT, 16) + moved:040x}" for moved in count())

    def load(self, *place: Any, **settings: Any) -> Iterator[dict[str, Any]]:
        self.calls.append((place, settings))
        yield from self.rows
        if self.error is not None:
            raise self.error

    def dataset_info(self, name: str, revision: str | None) -> Any:
        if self.error is not None:
            raise self.error
        return type("Info", (), {"sha": next(self.commits)})


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked([{"text": "one"}, {"text": "  "}, {"text": "two"}])
    monkeypatch.setattr(streams, "load_dataset", asked.load)
    monkeypatch.setattr(streams, "HfApi", lambda: asked)
    return asked


def test_a_hub_data_set_is_streamed_at_one_commit(hub: Asked) -> None:
    source = HubText("some/corpus", config="en", split="train", revision="main")
    assert list(source.documents()) == ["one", "two"]
    assert hub.calls == [(("some/corpus", "en"), {"split": "train", "revision": COMMIT, "streaming": True})]
    assert source.name == "some/corpus:en:train"
    assert source.identity() == HubText("some/corpus", config="en", revision=COMMIT).identity()
    assert source.identity() != HubText("some/corpus", revision=COMMIT).identity()


def test_a_branch_that_moves_is_read_at_the_commit_that_was_looked_up(hub: Asked) -> None:
    """In each pass, in the key of what is stored, and by a copy in a worker process."""
    source = HubText("some/corpus")
    identity = source.identity()
    for each in (source, source, First(source, 9), pickle.loads(pickle.dumps(source))):
        assert list(each.documents()) == ["one", "two"]
    assert [settings["revision"] for _, settings in hub.calls] == [COMMIT] * 4
    assert identity == source.identity() == HubText("some/corpus", revision=COMMIT).identity()
    assert HubText("some/corpus").identity() != identity


def test_a_hub_data_set_without_the_column(hub: Asked) -> None:
    with pytest.raises(DataError, match="some/corpus:train: no column 'txt'; did you mean 'text'"):
        list(HubText("some/corpus", column="txt").documents())


@pytest.mark.parametrize("kind", [ConnectionError, HfHubHTTPError.__bases__[0]])
def test_the_hub_out_of_reach(hub: Asked, kind: type[Exception]) -> None:
    """The HTTP library of the Hub's client has errors of its own, which need not be an OSError."""
    hub.error = kind("no route")
    with pytest.raises(DataError, match="does not say which commit main is: no route"):
        HubText("some/corpus").identity()
    with pytest.raises(DataError, match=f"some/corpus:train, commit {COMMIT}: could not be read: no route"):
        list(HubText("some/corpus", revision=COMMIT).documents())


def test_nothing_is_read_beyond_the_first_documents(hub: Asked) -> None:
    hub.error = ConnectionError("read too far")
    source = HubText("some/corpus", revision=COMMIT)
    first = First(source, 2)
    assert list(first.documents()) == ["one", "two"]
    assert first.name == source.name
    assert len({first.identity(), source.identity(), First(source, 3).identity()}) == 3
    with pytest.raises(DataError, match="read too far"):
        list(First(source, 3).documents())


# ---- mixtures ----


class Given(Source):
    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def identity(self) -> str:
        return f"{self.name} {self.size}"

    def documents(self) -> Iterator[str]:
        return (f"{self.name}{i}" for i in range(self.size))


def test_a_mixture_has_its_shares_and_depends_on_seed_and_epoch_alone() -> None:
    sources = [Given("a", 3000), Given("b", 1000)]
    found = list(interleaved(sources, [3.0, 1.0], seed=5, epoch=0))
    assert found == list(interleaved(sources, [3.0, 1.0], seed=5, epoch=0))
    assert found != list(interleaved(sources, [3.0, 1.0], seed=6, epoch=0))
    assert found != list(interleaved(sources, [3.0, 1.0], seed=5, epoch=1))
    share = sum(document.startswith("a") for document in found) / len(found)
    assert abs(share - 0.75) < 5 * (0.75 * 0.25 / len(found)) ** 0.5
    for name, size in (("a", 3000), ("b", 1000)):
        own = [document for document in found if document.startswith(name)]
        assert own[:size] == [f"{name}{i}" for i in range(min(size, len(own)))]
        assert len(set(own)) == size


def test_a_source_that_is_used_up_begins_anew() -> None:
    found = list(interleaved([Given("a", 2), Given("b", 50)], [1.0, 1.0], seed=0, epoch=0))
    short = [document for document in found if document.startswith("a")]
    assert {f"b{i}" for i in range(50)} <= set(found)
    assert short == [f"a{i % 2}" for i in range(len(short))]
    assert len(short) > 10


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0]])
def test_a_mixture_needs_a_weight_for_each_source(weights: list[float]) -> None:
    with pytest.raises(DataError, match="mixture: 2 sources"):
        next(interleaved([Given("a", 1), Given("b", 1)], weights, seed=0, epoch=0))
