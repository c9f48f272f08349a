"""Word vectors from a text file, and the words nearest to a word."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hf_distill.data.files import listing
from hf_distill.errors import DataError


class WordVectors:
    """Words and their vectors, scaled to length 1: `[words, dimensions]`, float32."""

    def __init__(self, words: list[str], vectors: NDArray[np.float32]) -> None:
        self.words = words
        self.vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        self._rows = {word: row for row, word in reversed(list(enumerate(words)))}

    @classmethod
    def read(cls, path: str | Path, limit: int = 100_000) -> WordVectors:
        """The first `limit` words of a file in GloVe's text format: a word and its numbers, one word a line. A
        word may hold spaces, as some of GloVe's largest file do.

        The file is UTF-8, gzipped if its name ends in `.gz`.

        Errors: DataError, with file and line, where the file is missing, damaged or empty, or a line has another
        number of numbers than the first, or one that is not finite.
        """
        path = Path(path)
        words: list[str] = []
        vectors: list[NDArray[np.float32]] = []
        try:
            for number, line in enumerate(_lines(path), start=1):
                word, vector = _parse(line, f"{path}, line {number}", len(vectors[0]) if vectors else None)
                words.append(word)
                vectors.append(vector)
                if number == limit:
                    break
        except FileNotFoundError as error:
            raise DataError(f"{path}: no such file; {listing(path.parent)}.") from error
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise DataError(f"{path}: not readable as UTF-8 text: {error}.") from error
        if not words:
            raise DataError(f"{path}: holds no word vectors.")
        return cls(words, np.stack(vectors))

    def nearest(self, word: str, number: int) -> list[str]:
        """The `number` other words of the highest cosine, highest first; none for an unknown word.

        A word that is only known in lower case is looked up so, and a capitalised word has capitalised neighbours.
        """
        row = self._rows.get(word, self._rows.get(word.lower()))
        if row is None:
            return []
        cosines = self.vectors @ self.vectors[row]
        cosines[row] = -math.inf
        number = min(number, len(self.words) - 1)
        best = np.argsort(-cosines, kind="stable")[:number]
        return [self.words[i].title() if word.istitle() else self.words[i] for i in best]


def _lines(path: Path) -> Iterator[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
        for line in handle:
            yield line.rstrip("\r\n")


def _parse(line: str, place: str, dimensions: int | None) -> tuple[str, NDArray[np.float32]]:
    """The word and the vector of one line; `dimensions` are those of the first line."""
    word, *numbers = line.rstrip(" ").split(" ")
    if len(numbers) < 2:
        raise DataError(
            f"{place}: {line[:60]!r} is no word with its vector. Each line holds a word and its numbers, separated "
            "by single spaces; remove a header line that counts them."
        )
    while dimensions is not None and len(numbers) > dimensions and not _is_number(numbers[0]):
        word = f"{word} {numbers.pop(0)}"
    if dimensions is not None and len(numbers) != dimensions:
        raise DataError(f"{place}: {len(numbers)} numbers behind {word!r}; the first line has {dimensions}.")
    try:
        vector = np.array([float(text) for text in numbers])
    except ValueError as error:
        raise DataError(f"{place}: the vector of {word!r} holds something else than numbers: {error}.") from error
    if not (np.abs(vector) <= np.finfo(np.float32).max).all():
        raise DataError(f"{place}: the vector of {word!r} holds a number that is not finite in float32.")
    return word, vector.astype(np.float32)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
