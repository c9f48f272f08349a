"""Questions whose answers are spans of a text, in the form of SQuAD (Rajpurkar et al., 2016, arXiv:1606.05250)."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict, Features, List, Value

from hf_distill.data.files import Table, check_text, commit_of, describe, sums
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

COLUMNS = ("id", "context", "question")
ANSWERS = "answers"

FEATURES = Features({name: Value("string") for name in COLUMNS})
LABELLED = Features(
    {**FEATURES, ANSWERS: {"text": List(Value("string")), "answer_start": List(Value("int32"))}},
)


@dataclass(frozen=True)
class Questions:
    """The splits, checked: `id`, `context`, `question` and, unless a split is unlabelled, `answers`, a mapping of
    `text` and `answer_start` (a character of the context), two lists that are empty where there is no answer.
    `sources` maps each split to the SHA-256 of what it was read from; `commit` is that of a data set of the Hub.
    """

    splits: DatasetDict
    sources: Mapping[str, str]
    commit: str | None = None


def questions_of(tables: Mapping[str, Table], *, version_2_with_negative: bool) -> Questions:
    """Checks the rows of the splits. A test that lacks the column of answers, or has nothing in it, is unlabelled.

    Errors: DataError, with file, line and column, for an id that is missing or stands twice, a context or question
    that is no text, an answer that is not where `answer_start` says, and a question without an answer unless
    `version_2_with_negative`.
    """
    splits = {name: _checked(table, name == "test", version_2_with_negative) for name, table in tables.items()}
    return Questions(DatasetDict(splits), sums(tables), commit_of(tables))


def _checked(table: Table, is_test: bool, version_2_with_negative: bool) -> Dataset:
    columns: dict[str, list[Any]] = {"id": _ids(table)}
    for name in COLUMNS[1:]:
        check_text(table, name)
        columns[name] = table.columns[name]
    empty = next((row for row, text in enumerate(columns["context"]) if not text.strip()), None)
    if empty is not None:
        raise DataError(f"{table.place(empty, 'context')}: is empty; there is nothing to find an answer in.")
    cells = table.columns.get(ANSWERS, [None] * len(table))
    if is_test and all(cell is None for cell in cells):
        return Dataset.from_dict(columns, features=FEATURES)
    columns[ANSWERS] = [_answers(cell, columns["context"][row], table, row) for row, cell in enumerate(cells)]
    if not version_2_with_negative:
        none = next((row for row, found in enumerate(columns[ANSWERS]) if not found["text"]), None)
        if none is not None:
            raise DataError(
                f"{table.place(none, ANSWERS)}: the question has no answer. If that is meant, as in SQuAD v2, set "
                "version_2_with_negative."
            )
    return Dataset.from_dict(columns, features=LABELLED)


def _ids(table: Table) -> list[str]:
    """The ids as text; a whole number is one as well."""
    rows: dict[str, int] = {}
    for row, cell in enumerate(table.columns["id"]):
        if isinstance(cell, bool) or not isinstance(cell, str | int) or cell == "":
            raise DataError(f"{table.place(row, 'id')}: holds {describe(cell)}, expected a text of its own.")
        before = rows.setdefault(str(cell), row)
        if before != row:
            raise DataError(
                f"{table.place(row, 'id')}: {describe(cell)} stands in {table.unit} {table.numbers[before]} as well; "
                "each question needs an id of its own."
            )
    return list(rows)


def _answers(cell: Any, context: str, table: Table, row: int) -> dict[str, list[Any]]:
    """The answers of a row as two lists; also from a list of mappings, one an answer, as SQuAD's own files have it."""
    place = table.place(row, ANSWERS)
    if isinstance(cell, list) and all(isinstance(answer, Mapping) for answer in cell):
        cell = {key: [answer.get(key) for answer in cell] for key in ("text", "answer_start")}
    texts, starts = (cell.get(key) for key in ("text", "answer_start")) if isinstance(cell, Mapping) else (None, None)
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise DataError(
            f"{place}: holds {describe(cell)}, expected {{text: [...], answer_start: [...]}}, equally long."
        )
    for text, start in zip(texts, starts, strict=True):
        if not isinstance(text, str) or not text.strip() or isinstance(start, bool) or not isinstance(start, int):
            raise DataError(f"{place}: the answer {describe(text)} at {describe(start)} is no text at a character.")
        found = context[max(start, 0) : max(start, 0) + len(text)]
        if start < 0 or found != text:
            raise DataError(
                f"{place}: the answer {text[:60]!r} is not at answer_start {start}, where the context has "
                f"{found[:60]!r}."
            )
    return {"text": texts, "answer_start": starts}


def split_by_context(dataset: Dataset, validation: float, test: float, seed: int) -> DatasetDict:
    """Cuts `train`, `validation` and `test` from one data set, so that no context is in two of them. The shares are of
    contexts; the result depends on `seed` and the order of the rows alone.

    Errors: DataError where a split that was asked for would be empty.
    """
    numbers: dict[str, int] = {}
    of_row = np.asarray([numbers.setdefault(context, len(numbers)) for context in dataset["context"][:]])
    shuffled = np.random.default_rng(seed).permutation(len(numbers))
    counts = {"validation": round(validation * len(numbers)), "test": round(test * len(numbers))}
    ends = np.cumsum(list(counts.values()))
    chosen = {"validation": shuffled[: ends[0]], "test": shuffled[ends[0] : ends[1]], "train": shuffled[ends[1] :]}
    wanted = {"train": 1.0, "validation": validation, "test": test}
    for name, share in wanted.items():
        if share and not len(chosen[name]):
            raise DataError(f"split: {share:g} of {len(numbers)} contexts leaves {name!r} empty.")
    rows = {name: np.flatnonzero(np.isin(of_row, chosen[name])) for name, share in wanted.items() if share}
    return DatasetDict({name: dataset.select(of_split) for name, of_split in rows.items()})
