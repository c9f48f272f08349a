"""Documents out of files and Hub data sets, one after the other, so that no corpus need fit into memory."""

from __future__ import annotations

import codecs
import gzip
import hashlib
import io
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from datasets import load_dataset
from huggingface_hub import HfApi
from huggingface_hub.file_download import REGEX_COMMIT_HASH

from hf_distill.data.files import choices, describe, json_lines, listing
from hf_distill.data.hub import HUB_ERRORS
from hf_distill.errors import DataError

FORMATS = (".txt", ".jsonl", ".parquet")
"""What `TextFiles` reads; the first two may be followed by `.gz`."""

UNITS = ("line", "paragraph")

LONGEST = 2**20
"""Characters of a document. A longer one is cut into several, as a file may well be a single line."""

Text = tuple[str, Any]
"""Where a document stands, for messages, and the document."""


class Source(ABC):
    """Text to train on. `name` stands for it in messages and in the record of a run."""

    name: str

    @abstractmethod
    def identity(self) -> str:
        """SHA-256 of what is read, by which tokens that were stored earlier are known again."""

    def version(self) -> str:
        """What is read, as messages tell of it: the `identity`, where there is no name for it."""
        return self.identity()

    @abstractmethod
    def documents(self) -> Iterator[str]:
        """The documents in order, each of at most `LONGEST` characters; those without a visible character are left
        out.

        Errors: DataError naming file and line for what is missing, damaged, not UTF-8, or no text; for a source
        without any document.
        """


def _documents(name: str, texts: Iterator[Text]) -> Iterator[str]:
    found = False
    for place, text in texts:
        _check(place, text)
        if text.strip():
            found = True
            for start in range(0, len(text), LONGEST):
                yield text[start : start + LONGEST]
    if not found:
        raise DataError(f"{name}: holds no text.")


@dataclass(frozen=True)
class TextFiles(Source):
    """Files of text, read in the order given.

    `.txt`: a document is a line or, with `unit="paragraph"`, what stands between blank lines. `.jsonl`, `.parquet`:
    the cells of `column`. `.txt.gz` and `.jsonl.gz` are unpacked on the way. UTF-8 with or without a byte order mark.

    Errors: DataError for no file, an unknown format or unit, a file that is not there.
    """

    paths: tuple[Path, ...]
    column: str = "text"
    unit: str = "line"

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(Path(path) for path in self.paths))
        if not self.paths:
            raise DataError("text files: there is none; name at least one.")
        if self.unit not in UNITS:
            raise DataError(f"text files: unit is {self.unit!r}; {choices(self.unit, UNITS)}.")
        for path in self.paths:
            _format_of(path)
            if not path.is_file():
                raise DataError(f"{path}: no such file; {listing(path.parent)}.")

    @property
    def name(self) -> str:  # type: ignore[override]
        """The first file, and how many follow."""
        more = f" and {len(self.paths) - 1} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0].name}{more}"

    def identity(self) -> str:
        return self._digest

    @cached_property
    def _digest(self) -> str:
        """Files may be many gigabytes, and are asked for by the run, and by the trainer of each stage."""
        digest = hashlib.sha256(f"{self.column}\n{self.unit}\n".encode())
        for path in self.paths:
            with path.open("rb") as handle:
                digest.update(hashlib.file_digest(handle, "sha256").digest())
        return digest.hexdigest()

    def documents(self) -> Iterator[str]:
        return _documents(self.name, self._texts())

    def _texts(self) -> Iterator[Text]:
        for path in self.paths:
            try:
                yield from self._of(path)
            except DataError:
                raise
            except (OSError, EOFError, zlib.error, ValueError) as error:
                raise DataError(f"{path}: not readable as {_format_of(path)[1:]}: {error}.") from error

    def _of(self, path: Path) -> Iterator[Text]:
        suffix = _format_of(path)
        if suffix == ".parquet":
            yield from _parquet(path, self.column)
            return
        with path.open("rb") as handle:
            packed = path.suffix.lower() == ".gz"
            content = io.BufferedReader(gzip.GzipFile(fileobj=handle)) if packed else handle
            if suffix == ".jsonl":
                yield from _cells(content, path, self.column)
            elif self.unit == "line":
                yield from ((f"{path}, line {number}", line.strip()) for number, line in _lines(content, path))
            else:
                yield from _paragraphs(content, path)


@dataclass(frozen=True)
class HubText(Source):
    """A split of a data set on the Hub, streamed: only what is read is downloaded.

    `revision` is a branch, tag or commit; the commit that it stands for is looked up when the source is made, and read
    from then on, by its copies in worker processes as well.

    Errors: DataError where the Hub cannot be asked.
    """

    id: str
    column: str = "text"
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    commit: str = field(init=False)
    """The commit that is read."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "commit", self._commit_now())

    @property
    def name(self) -> str:  # type: ignore[override]
        """Id, configuration and split."""
        return ":".join(part for part in (self.id, self.config, self.split) if part)

    def _commit_now(self) -> str:
        if self.revision is not None and REGEX_COMMIT_HASH.fullmatch(self.revision):
            return self.revision
        try:
            found = HfApi().dataset_info(self.id, revision=self.revision).sha
        except HUB_ERRORS as error:
            raise DataError(
                f"{self.name}: the Hub does not say which commit {self.revision or 'main'} is: {error}. Where there "
                "is no way to the Hub, give files."
            ) from error
        return str(found)

    def identity(self) -> str:
        return hashlib.sha256(f"{self.name}\n{self.column}\n{self.commit}\n".encode()).hexdigest()

    def version(self) -> str:
        return f"commit {self.commit} of {self.name}, {self.column}"

    def documents(self) -> Iterator[str]:
        return _documents(self.name, self._texts())

    def _texts(self) -> Iterator[Text]:
        try:
            rows = load_dataset(self.id, self.config, split=self.split, revision=self.commit, streaming=True)
            for number, row in enumerate(rows, start=1):
                if self.column not in row:
                    raise DataError(f"{self.name}: no column {self.column!r}; {choices(self.column, row)}.")
                yield f"{self.name}, row {number}", row[self.column]
        except DataError:
            raise
        except HUB_ERRORS as error:
            raise DataError(f"{self.name}, commit {self.commit}: could not be read: {error}.") from error


@dataclass(frozen=True)
class First(Source):
    """The first `number` documents of a source; nothing is read beyond them."""

    source: Source
    number: int

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the source."""
        return self.source.name

    def identity(self) -> str:
        return hashlib.sha256(f"{self.source.identity()} {self.number}".encode()).hexdigest()

    def version(self) -> str:
        return f"{self.source.version()}, {self.number} documents"

    def documents(self) -> Iterator[str]:
        return islice(self.source.documents(), self.number)


def interleaved(sources: Sequence[Source], weights: Sequence[float], seed: int, epoch: int) -> Iterator[str]:
    """The documents of several sources, each drawn from a source with a probability in proportion to its weight.

    A source that is used up begins anew, until every one has been read to its end. What is drawn depends on seed and
    epoch alone.

    Errors: DataError for weights that are not one number above 0 for each source; whatever the sources raise.
    """
    if len(weights) != len(sources) or not all(weight > 0 for weight in weights):
        raise DataError(
            f"mixture: {len(sources)} sources and the weights {list(weights)}; give each a number above 0."
        )
    random = np.random.Generator(np.random.Philox(key=[seed, _MIXTURE], counter=[0, 0, epoch, 0]))
    shares = np.cumsum(np.asarray(weights, dtype=np.float64))
    running = [source.documents() for source in sources]
    unread = set(range(len(sources)))
    while True:
        for draw in random.random(1024) * shares[-1]:
            chosen = int(np.searchsorted(shares, draw, side="right"))
            document = next(running[chosen], None)
            if document is None:
                unread.discard(chosen)
                if not unread:
                    return
                running[chosen] = sources[chosen].documents()
                document = next(running[chosen])
            yield document


_MIXTURE = 2
"""Sets these draws apart from those of other purposes that have the same seed."""


def _format_of(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    suffix = (suffixes[:-1] if packed else suffixes or [""])[-1:]
    found = suffix[0] if suffix else ""
    if found not in FORMATS or (packed and found == ".parquet"):
        raise DataError(
            f"{path}: unknown format {found!r}; text is read from {', '.join(FORMATS)}, .txt.gz and .jsonl.gz."
        )
    return found


def _check(place: str, text: Any) -> None:
    if not isinstance(text, str):
        raise DataError(f"{place}: holds {describe(text)}, expected text.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: {error}; replace that character.") from error


def _lines(content: Any, path: Path) -> Iterator[tuple[int, str]]:
    """The lines with their numbers; one beyond `LONGEST` bytes comes in pieces."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    number = 1
    piece = b"\n"
    while piece:
        piece = content.readline(LONGEST)
        ended = piece.endswith(b"\n")
        try:
            text = decoder.decode(piece, ended or not piece)
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, line {number}: not UTF-8: {error}.") from error
        if text:
            yield number, text
        number += ended


def _paragraphs(content: Any, path: Path) -> Iterator[Text]:
    lines: list[str] = []
    first = length = 0
    for number, line in _lines(content, path):
        if lines and (not line.strip() or length >= LONGEST):
            yield f"{path}, line {first}", "".join(lines).strip()
            lines, length = [], 0
        if line.strip():
            first = first if lines else number
            lines.append(line)
            length += len(line)
    if lines:
        yield f"{path}, line {first}", "".join(lines).strip()


def _cells(content: Any, path: Path, column: str) -> Iterator[Text]:
    for number, row in json_lines(content, path):
        if column not in row:
            raise DataError(f"{path}, line {number}: no column {column!r}; {choices(column, row)}.")
        yield f"{path}, line {number}, column {column!r}", row[column]


def _parquet(path: Path, column: str) -> Iterator[Text]:
    with pyarrow.parquet.ParquetFile(path) as file:
        names = file.schema_arrow.names
        if column not in names:
            raise DataError(f"{path}: no column {column!r}; {choices(column, names)}.")
        number = 0
        for batch in file.iter_batches(batch_size=256, columns=[column]):
            for cell in batch.column(0).to_pylist():
                number += 1
                yield f"{path}, row {number}, column {column!r}", cell
