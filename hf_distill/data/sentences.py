"""Sentences to embed: plain, with translations, or queries with passages; and pairs on which encoders are judged."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from transformers import BatchEncoding, DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_distill.data.files import Table, check_text, describe
from hf_distill.errors import DataError

TEXT, SCORE, MARGIN = "text", "score", "margin"
BESIDE: dict[str, tuple[str, ...]] = {
    "sentences": (),
    "triplets": ("positive", "negative"),
    "parallel": ("translation",),
}
"""The kinds of training rows, and the texts that each has beside its own."""

HIGHEST = 5.0
"""Gold scores of similarity go from 0 to this."""


@dataclass(frozen=True)
class SentenceRows:
    """The splits, checked, under the names of their files' columns. `sources` maps each to the SHA-256 of what it was
    read from; `commit` is that of a data set of the Hub."""

    splits: DatasetDict
    sources: Mapping[str, str]
    commit: str | None = None


def checked(table: Table, text_columns: Sequence[str], score_column: str | None, margin_column: str | None) -> Dataset:
    """The rows of a table under the names that they have there, texts checked and numbers made float.

    Errors: DataError, with file, line and column, for a cell that is no text, an empty one, a gold score that is no
    number from 0 to 5, and a margin that is no finite number.
    """
    columns: dict[str, list[Any]] = {}
    for column in dict.fromkeys(text_columns):
        check_text(table, column)
        empty = next((row for row, text in enumerate(table.columns[column]) if not text.strip()), None)
        if empty is not None:
            raise DataError(f"{table.place(empty, column)}: is empty, and a sentence without a word has no vector.")
        columns[column] = table.columns[column]
    for name, highest in ((score_column, HIGHEST), (margin_column, math.inf)):
        if name is not None and name in table.columns:
            columns[name] = _numbers(table, name, highest)
    return Dataset.from_dict(columns)


def _numbers(table: Table, column: str, highest: float) -> list[float]:
    found = []
    for row, cell in enumerate(table.columns[column]):
        number = _number(cell, table.is_text)
        if number is None or not math.isfinite(number):
            raise DataError(f"{table.place(row, column)}: holds {describe(cell)}, expected a finite number.")
        if highest < math.inf and not 0.0 <= number <= highest:
            raise DataError(
                f"{table.place(row, column)}: the score is {number:g}; gold scores go from 0 to {highest:g}. Scale "
                "them, or name another column as score_column."
            )
        found.append(number)
    return found


def _number(cell: Any, is_text: bool) -> float | None:
    if isinstance(cell, str) and is_text:
        try:
            return float(cell)
        except ValueError:
            return None
    return float(cell) if isinstance(cell, int | float) and not isinstance(cell, bool) else None


def distinct(rows: Dataset, columns: Sequence[str]) -> list[str]:
    """Every text of some columns once, row by row."""
    cells = zip(*(rows[column][:] for column in columns), strict=True)
    return list(dict.fromkeys(text for row in cells for text in row))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of texts: `texts` holds each text once, `first` and `second` `[pairs]` are numbers of texts, `scores` the
    gold similarities, where there are any."""

    texts: list[str]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    scores: NDArray[np.float64] | None

    @classmethod
    def of(cls, rows: Dataset, columns: Sequence[str], score_column: str | None) -> Pairs:
        """The pairs of two columns."""
        texts = distinct(rows, columns)
        number = {text: i for i, text in enumerate(texts)}
        first, second = (np.asarray([number[text] for text in rows[column][:]]) for column in columns)
        scores = None if score_column is None else np.asarray(rows[score_column][:], dtype=np.float64)
        return cls(texts, first, second, scores)


def tokenize_texts(
    texts: Mapping[str, Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    numbers: Mapping[str, Sequence[float]],
    desc: str,
) -> Dataset:
    """Token ids of the column `text` under the tokenizer's names, those of the others behind their own
    (`positive_input_ids`), and `length`, the tokens of the first; columns of `numbers` stay. Each text is cut to
    `max_length` tokens.

    Errors: DataError for a text of which nothing is left.
    """
    rows = Dataset.from_dict({**{name: list(each) for name, each in texts.items()}, **dict(numbers)})

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in texts:
            encoded = tokenizer(batch[name], truncation=True, max_length=max_length)
            start = "" if name == TEXT else f"{name}_"
            found |= {f"{start}{key}": value for key, value in encoded.items()}
            if not start:
                found["length"] = [len(ids) for ids in encoded["input_ids"]]
        return found

    made = rows.map(encode, batched=True, remove_columns=list(texts), desc=desc)
    for name in texts:
        column = "input_ids" if name == TEXT else f"{name}_input_ids"
        empty = next((row for row, ids in enumerate(made[column], start=1) if not len(ids)), None)
        if empty is not None:
            raise DataError(f"{desc}: {name} of row {empty} has no token that the tokenizer knows.")
    return made


@dataclass(frozen=True, eq=False)
class Padded:
    """Puts rows together, each of their texts padded to its own longest."""

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: list[dict[str, Any]]) -> BatchEncoding:
        pad = DataCollatorWithPadding(self.tokenizer)
        beside = [name for names in BESIDE.values() for name in names if f"{name}_input_ids" in rows[0]]
        starts = tuple(f"{name}_" for name in beside)
        batch: BatchEncoding = pad([{k: v for k, v in row.items() if not k.startswith(starts)} for row in rows])
        for start in starts:
            own = pad([{k.removeprefix(start): v for k, v in row.items() if k.startswith(start)} for row in rows])
            batch.update({f"{start}{name}": value for name, value in own.items()})
        return batch
