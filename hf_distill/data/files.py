"""Columns of a data file: JSON lines, JSON, CSV, TSV or parquet, each also gzipped.

The files are parsed here and not by `datasets.load_dataset`, which turns the CSV cells `NA`, `null` and the empty one
into missing values, accepts columns of mixed types, and does not say in which line a file is broken.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet

from hf_distill.errors import DataError
from hf_distill.suggestions import did_you_mean

FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""What `read` understands; each may be followed by `.gz`."""

Record = tuple[int, dict[str, Any]]


@dataclass(frozen=True)
class Table:
    """Some columns of one file, as Python values.

    `numbers[i]` says where row i stands: its line, or its row counted from 1 in formats without lines. `is_text` is
    true where the format knows nothing but text (CSV and TSV), so that a number there is one by its looks alone.
    `class_names` are the names of classes in the order of their ids, of the columns whose format has them. `commit` is
    the one that rows of the Hub were read at.
    """

    path: Path
    columns: dict[str, list[Any]]
    numbers: list[int]
    unit: str
    is_text: bool
    sha256: str
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    commit: str | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def place(self, row: int, column: str) -> str:
        """Where a cell stands, for messages."""
        return f"{self.path}, {self.unit} {self.numbers[row]}, column {column!r}"

    def without(self, column: str) -> Table:
        """The table without a column."""
        return replace(self, columns={name: cells for name, cells in self.columns.items() if name != column})

    def keep(self, rows: Sequence[int]) -> Table:
        """The table of these rows alone."""
        columns = {name: [cells[row] for row in rows] for name, cells in self.columns.items()}
        return replace(self, columns=columns, numbers=[self.numbers[row] for row in rows])


def read(path: str | Path, columns: Sequence[str], optional: Sequence[str] = (), sha256: str | None = None) -> Table:
    """Reads `columns`, and those of `optional` that the file has.

    UTF-8 with or without a byte order mark. `.json` holds a list of objects, or JSON lines; a key that a JSON row
    lacks is None there. CSV is quoted as RFC 4180 has it, TSV has no quotes. Every CSV and TSV cell stays text, `NA`
    and `null` too.

    Errors: DataError where the file is missing, has another SHA-256 than `sha256` (compared before anything is
    parsed), is damaged, has a row of the wrong width, no rows, or lacks one of `columns`; it names the file and the
    line.
    """
    path = Path(path)
    suffix = _format_of(path)
    try:
        with path.open("rb") as handle:
            digest = hashlib.file_digest(handle, "sha256").hexdigest()
            handle.seek(0)
            if sha256 is not None and digest != sha256:
                raise DataError(f"{path}: its SHA-256 is {digest}, expected {sha256}; it is another file, or damaged.")
            content = gzip.GzipFile(fileobj=handle) if path.suffix.lower() == ".gz" else handle
            unit, records = _parse(content, suffix, path)
            names, numbers, cells = _collect(records, [*columns, *optional])
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; {listing(path.parent)}.") from error
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path}: not readable as {suffix[1:]}: {error}.") from error
    if not numbers:
        raise DataError(f"{path}: holds no rows.")
    for column in columns:
        if column not in names:
            raise DataError(f"{path}: no column {column!r}; {choices(column, names)}.")
    present = {name: column for name, column in cells.items() if name in names}
    return Table(path, present, numbers, unit, suffix in (".csv", ".tsv"), digest)


def find(folder: Path, stem: str) -> Path | None:
    """The file `<stem><format>` of a folder; None if there is none, DataError if there are several."""
    names = [f"{stem}{suffix}{gz}" for suffix in FORMATS for gz in ("", ".gz")]
    present = [folder / name for name in names if (folder / name).is_file()]
    if len(present) > 1:
        raise DataError(
            f"{folder}: {', '.join(path.name for path in present)} are all called {stem!r}; keep one of them."
        )
    return present[0] if present else None


def choices(name: object, known: Iterable[str]) -> str:
    """The nearest of the known names, and all of them: the end of a message about an unknown name."""
    known = sorted(known)
    return did_you_mean(name, known, "", " ") + f"known: {', '.join(known) or 'none'}"


def sums(tables: Mapping[str, Table]) -> dict[str, str]:
    """The SHA-256 of what each split was read from."""
    return {split: table.sha256 for split, table in tables.items()}


def commit_of(tables: Mapping[str, Table]) -> str | None:
    """The commit that the splits were read at, None where they are no rows of the Hub, or its commit is not known."""
    commits = {table.commit for table in tables.values()}
    return commits.pop() if len(commits) == 1 else None


def listing(folder: Path) -> str:
    """What a folder holds: the end of a message about a missing file."""
    if not folder.is_dir():
        return f"there is no folder {folder}"
    names = sorted(entry.name for entry in folder.iterdir())
    shown = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    return f"{folder} holds {shown or 'nothing'}"


def check_text(table: Table, column: str) -> None:
    """Errors: DataError where a cell of the column is not text, or text that UTF-8 cannot hold (a lone surrogate)."""
    for row, cell in enumerate(table.columns[column]):
        if not isinstance(cell, str):
            raise DataError(f"{table.place(row, column)}: holds {describe(cell)}, expected text.")
        if not cell.isascii():
            try:
                cell.encode()
            except UnicodeEncodeError as error:
                raise DataError(f"{table.place(row, column)}: {error}; replace that character.") from error


def describe(value: Any) -> str:
    """A value as messages show it: its type, and the beginning of it."""
    return "null" if value is None else f"{ascii(value)[:60]} ({type(value).__name__})"


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else (suffixes or [""])[-1]
    if suffix not in FORMATS:
        raise DataError(
            f"{path}: unknown format {suffix!r}; the name must end in {', '.join(FORMATS)}, or that and .gz."
        )
    return suffix


def _parse(content: io.BufferedIOBase, suffix: str, path: Path) -> tuple[str, Iterator[Record]]:
    if suffix == ".parquet":
        return "row", enumerate(pyarrow.parquet.read_table(io.BytesIO(content.read())).to_pylist(), start=1)
    if suffix in (".csv", ".tsv"):
        return "line", _csv_records(content, suffix, path)
    if suffix == ".jsonl":
        return "line", json_lines(content, path)
    whole = content.read()
    if whole.removeprefix(codecs.BOM_UTF8).lstrip().startswith(b"["):
        return "row", _json_list(whole, path)
    return "line", json_lines(io.BytesIO(whole), path)


def _lines(content: Iterable[bytes], path: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers, decoded one by one, so that a wrong byte is reported where it stands."""
    for number, line in enumerate(content, start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8: {error}.") from error


def json_lines(content: Iterable[bytes], path: Path) -> Iterator[Record]:
    """The objects of JSON lines with their line numbers, one by one; blank lines are passed over.

    Errors: DataError naming the line for one that is not UTF-8, not JSON, or no object.
    """
    for number, line in _lines(content, path):
        if line.strip():
            yield number, _json_object(_json(line, f"{path}, line {number}"), f"{path}, line {number}")


def _json_list(content: bytes, path: Path) -> Iterator[Record]:
    for number, row in enumerate(_json(content.decode("utf-8-sig"), str(path)), start=1):
        yield number, _json_object(row, f"{path}, row {number}")


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not JSON: {error}.") from error


def _json_object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise DataError(f"{place}: holds {describe(row)}, not an object with one key a column.")
    return row


def _csv_records(content: Iterable[bytes], suffix: str, path: Path) -> Iterator[Record]:
    lines = (line for _, line in _lines(content, path))
    if suffix == ".tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE, strict=True)
    else:
        reader = csv.reader(lines, strict=True)
    header: list[str] = []
    for number, cells in _csv_rows(reader, path):
        if not header:
            header = cells
            if len(set(header)) < len(header):
                raise DataError(f"{path}, line {number}: a column stands twice in the header {', '.join(header)}.")
        elif len(cells) != len(header):
            raise DataError(f"{path}, line {number}: {len(cells)} cells, but the header has {len(header)}.")
        else:
            yield number, dict(zip(header, cells, strict=True))


def _csv_rows(reader: Any, path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the line on which it begins (a quoted cell may hold line breaks)."""
    line = 1
    try:
        for cells in reader:
            if cells:
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path}, line {line}: {error}. JSON lines have neither quoting nor a longest cell."
        ) from error


def _collect(records: Iterator[Record], wanted: Sequence[str]) -> tuple[set[str], list[int], dict[str, list[Any]]]:
    """The names of all columns of the file; the row numbers; the cells of the wanted columns, None where a row has
    none."""
    names: set[str] = set()
    numbers: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in wanted}
    for number, record in records:
        names.update(record)
        numbers.append(number)
        for name, cells in columns.items():
            cells.append(record.get(name))
    return names, numbers, columns
