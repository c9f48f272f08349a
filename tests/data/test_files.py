"""Reading columns: formats, compression, and every way in which a file can be broken."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hf_distill.data.files import FORMATS, choices, find, read
from hf_distill.errors import DataError

ROWS = [{"text": "good, really", "label": "a"}, {"text": "NA", "label": "b"}, {"text": 'say "no"\nor', "label": "a"}]
FLAT = [{"text": "good, really", "label": "a"}, {"text": "NA", "label": "b"}, {"text": "null", "label": "a"}]


def content(suffix: str, tmp_path: Path) -> bytes:
    if suffix == ".jsonl":
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if suffix == ".json":
        return json.dumps(ROWS, indent=1).encode()
    if suffix == ".csv":
        return b'text,label\n"good, really",a\nNA,b\n"say ""no""\nor",a\n'
    if suffix == ".tsv":
        return b"text\tlabel\ngood, really\ta\nNA\tb\nnull\ta\n"
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "source")
    return (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("gz", ["", ".gz"])
@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_the_same_cells(suffix: str, gz: str, tmp_path: Path) -> None:
    data = content(suffix, tmp_path)
    path = tmp_path / f"a.b{suffix}{gz}"
    path.write_bytes(gzip.compress(data) if gz else data)
    table = read(path, ["text", "label"], ["absent"])
    expected = FLAT if suffix == ".tsv" else ROWS
    assert table.columns == {"text": [row["text"] for row in expected], "label": ["a", "b", "a"]}
    assert table.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert table.is_text == (suffix in (".csv", ".tsv"))


def test_places_are_lines_where_there_are_lines(tmp_path: Path) -> None:
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"t": "x"}\n\n{"t": "y"}\n')
    quoted = tmp_path / "a.csv"
    quoted.write_text('t\n"x\nx"\n\ny\n')
    rows = tmp_path / "a.json"
    rows.write_text('[{"t": "x"},\n\n{"t": "y"}]')
    assert read(lines, ["t"]).place(1, "t") == f"{lines}, line 3, column 't'"
    assert read(quoted, ["t"]).numbers == [2, 5]
    assert read(rows, ["t"]).place(1, "t") == f"{rows}, row 2, column 't'"


def test_json_may_hold_json_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    for name in ("a.json", "a.jsonl", "b.csv"):
        text = "t\nx\n" if name == "b.csv" else '{"t": "x"}\n'
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + text.encode())
        assert read(tmp_path / name, ["t"]).columns == {"t": ["x"]}
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf[{"t": "x"}]')
    assert read(tmp_path / "c.json", ["t"]).columns == {"t": ["x"]}


def test_a_key_that_a_row_lacks_is_none_and_an_optional_column_may_be_absent(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"t": "x", "l": 1}\n{"t": "y"}\n')
    assert read(tmp_path / "a.jsonl", ["t"], ["l", "m"]).columns == {"t": ["x", "y"], "l": [1, None]}


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('t\n"open\nclosed"\n')
    assert read(tmp_path / "a.tsv", ["t"]).columns == {"t": ['"open', 'closed"']}


BROKEN = {
    "truncated JSON": ("a.jsonl", b'{"t": "x"}\n{"t": "y', ["line 2", "not JSON"]),
    "not an object": ("a.jsonl", b'{"t": "x"}\n["t"]\n', ["line 2", "list"]),
    "not an object in a list": ("a.json", b'[{"t": "x"}, 3]', ["row 2", "3 (int)"]),
    "broken list": ("a.json", b'[{"t": "x"}', ["not JSON"]),
    "nested too deeply": ("a.jsonl", b"[" * 100_000, ["line 1", "not JSON"]),
    "wrong byte": ("a.jsonl", b'{"t": "x"}\n{"t": "\xff"}\n', ["line 2", "UTF-8"]),
    "wrong byte in CSV": ("a.csv", b"t\nx\ny\n\xe4\n", ["line 4", "UTF-8"]),
    "ragged, short": ("a.csv", b"t,l\nx,1\ny\n", ["line 3", "1 cells", "2"]),
    "ragged, long": ("a.tsv", b"t\tl\nx\t1\t2\n", ["line 2", "3 cells", "2"]),
    "open quote": ("a.csv", b't,l\nx,1\n"y,2\n', ["line 3", "unexpected end"]),
    "long cell": ("a.csv", b"t\n" + b"x" * 140_000 + b"\n", ["line 2", "field limit", "JSON lines"]),
    "column twice": ("a.csv", b"t,t\nx,1\n", ["line 1", "t, t"]),
    "header alone": ("a.csv", b"t,l\n", ["no rows"]),
    "empty": ("a.jsonl", b"", ["no rows"]),
    "empty list": ("a.json", b"[]", ["no rows"]),
    "not gzip": ("a.jsonl.gz", b'{"t": "x"}\n', ["a.jsonl.gz", "jsonl"]),
    "gzip cut": ("a.jsonl.gz", gzip.compress(b'{"t": "x"}\n' * 99)[:-12], ["a.jsonl.gz"]),
    "not parquet": ("a.parquet", b"PAR1", ["a.parquet", "parquet"]),
    "no such column": ("a.jsonl", b'{"tt": "x", "u": 1}\n', ["no column 't'", "did you mean 'tt'", "tt, u"]),
    "unknown format": ("a.txt", b"x", ["'.txt'", ".jsonl", ".gz"]),
    "no format": ("a", b"x", ["''"]),
    "only gz": ("a.gz", b"x", ["'.gz'"]),
}


@pytest.mark.parametrize(("name", "data", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_named_with_its_line(name: str, data: bytes, words: list[str], tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name, ["t"])
    for word in [str(tmp_path / name), *words]:
        assert word in str(caught.value)


def test_a_missing_file_is_named_with_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "trian.jsonl").touch()
    with pytest.raises(DataError, match=r"train\.jsonl: no such file; .* holds trian\.jsonl"):
        read(tmp_path / "train.jsonl", ["t"])
    with pytest.raises(DataError, match="there is no folder"):
        read(tmp_path / "none" / "train.jsonl", ["t"])
    for number in range(20):
        (tmp_path / f"{number:02}.csv").touch()
    with pytest.raises(DataError, match="and 9 more"):
        read(tmp_path / "train.jsonl", ["t"])


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").mkdir()
    with pytest.raises(DataError, match="not readable"):
        read(tmp_path / "a.jsonl", ["t"])


def test_the_digest_is_compared_before_anything_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"not JSON")
    digest = hashlib.sha256(b"not JSON").hexdigest()
    with pytest.raises(DataError, match=f"SHA-256 is {digest}, expected {'0' * 64}"):
        read(path, ["t"], sha256="0" * 64)
    with pytest.raises(DataError, match="not JSON"):
        read(path, ["t"], sha256=digest)


def test_find_takes_the_one_file_of_that_name(tmp_path: Path) -> None:
    assert find(tmp_path, "train") is None
    (tmp_path / "train.csv.gz").touch()
    (tmp_path / "train.txt").touch()
    assert find(tmp_path, "train") == tmp_path / "train.csv.gz"
    (tmp_path / "train.jsonl").touch()
    with pytest.raises(DataError, match=r"train\.jsonl, train\.csv\.gz"):
        find(tmp_path, "train")


def test_choices_name_the_nearest_and_all() -> None:
    assert choices("ssst2", ["sst2", "cola"]) == "did you mean 'sst2'? known: cola, sst2"
    assert choices("zzz", ["b", "a"]) == "known: a, b"
    assert choices("x", []) == "known: none"
