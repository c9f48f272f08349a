"""From rows with a target text to rows with the texts that a teacher wrote in its place.

`best` is sequence-level distillation, `nearest` sequence-level interpolation (both Kim & Rush, 2016,
arXiv:1606.07947), `all` has a row for each of the N best, for `nbest_kd`. All give plain rows, which are tokenized and
put together as those of the references would be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from hf_distill.data.sentence_bleu import sentence_bleu
from hf_distill.errors import DataError
from hf_distill.objectives.hypotheses import PLACE, SCORES, TEXTS
from hf_distill.tasks import IGNORED
from hf_distill.teachers.generation import Hypothesis

CHOICES = ("best", "nearest", "all")


def with_hypotheses(
    rows: Dataset, hypotheses: Sequence[Sequence[Hypothesis]], target_column: str, choice: str = "best"
) -> Dataset:
    """The rows with what a teacher wrote in `target_column`; `hypotheses` are those of each row, the best
    first as the search ranked them.

    `best`: the first. `nearest`: of all the one that is nearest to the row's own target, by sentence BLEU, of
    equally near ones the most probable. `all`: a row for each, with the columns `hypothesis`, which of them it is, and
    `hypothesis_scores`, log P of all of them, -inf behind the last.

    Raises: `DataError` where a row has no hypothesis, naming the first, or where the numbers of rows differ.
    """
    if len(rows) != len(hypotheses):
        raise DataError(f"there are the hypotheses of {len(hypotheses)} rows, and {len(rows)} rows.")
    empty = next((i for i, each in enumerate(hypotheses) if not each), None)
    if empty is not None:
        raise DataError(
            f"row {empty + 1} has no hypothesis; leave the row out, or have the teacher write longer texts."
        )
    if choice == "all":
        return _each(rows, hypotheses, target_column)
    if choice == "nearest":
        texts = [_nearest(each, row) for each, row in zip(hypotheses, rows[target_column][:], strict=True)]
    elif choice == "best":
        texts = [each[0].text for each in hypotheses]
    else:
        raise DataError(f"hypotheses are chosen by {choice!r}; it may be {', '.join(CHOICES)}.")
    return _replaced(rows, {target_column: texts})


def _nearest(hypotheses: Sequence[Hypothesis], reference: str) -> str:
    return max(hypotheses, key=lambda each: (sentence_bleu(each.text, reference), each.score)).text


def _each(rows: Dataset, hypotheses: Sequence[Sequence[Hypothesis]], target_column: str) -> Dataset:
    most = max(map(len, hypotheses))
    repeated = rows.select([i for i, each in enumerate(hypotheses) for _ in each])
    scores = [[each.score for each in row] + [float("-inf")] * (most - len(row)) for row in hypotheses]
    columns: dict[str, list[Any]] = {
        target_column: [each.text for row in hypotheses for each in row],
        PLACE: [place for row in hypotheses for place in range(len(row))],
        SCORES: [scores[i] for i, row in enumerate(hypotheses) for _ in row],
    }
    return _replaced(repeated, columns)


def _replaced(rows: Dataset, columns: Mapping[str, list[Any]]) -> Dataset:
    kept = rows.remove_columns([name for name in columns if name in rows.column_names])
    return Dataset.from_dict({**{name: kept[name][:] for name in kept.column_names}, **columns})


def with_heard(rows: Dataset, hypotheses: Sequence[Sequence[Hypothesis]], choice: str = "best") -> Dataset:
    """The rows of sounds with the symbols that a teacher took each for, the most probable first.

    `best`: those of the first as `labels`. `all`: the labels stay, and there are the columns `hypotheses`, the symbols
    of each, and `hypothesis_scores`, log P of each.

    Raises: `DataError` for another choice, and where the numbers of rows differ.
    """
    if len(rows) != len(hypotheses):
        raise DataError(f"there are the hypotheses of {len(hypotheses)} rows, and {len(rows)} rows.")
    if choice == "best":
        columns: dict[str, list[Any]] = {"labels": [list(row[0].ids) for row in hypotheses]}
    elif choice == "all":
        columns = {
            TEXTS: [[list(each.ids) for each in row] for row in hypotheses],
            SCORES: [[each.score for each in row] for row in hypotheses],
        }
    else:
        raise DataError(f"hypotheses of sounds are chosen by {choice!r}; it may be best, all.")
    for name, values in columns.items():
        rows = rows.remove_columns(name) if name in rows.column_names else rows
        rows = rows.add_column(name, values)
    return rows


class WithHypotheses:
    """A collator for `ctc_nbest_kd`: what `collator` makes of the rows, with the columns `hypotheses`, a list of the
    symbols of each hypothesis, and `hypothesis_scores`, the log P of each, padded to the most and the longest.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], Mapping[str, Any]]) -> None:
        self.collator = collator

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        own = [{name: value for name, value in item.items() if name not in (TEXTS, SCORES)} for item in items]
        return {**self.collator(own), **padded_hypotheses(items)}


def padded_hypotheses(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """`hypotheses` `[rows, n, length]` and `hypothesis_scores` `[rows, n]` of rows that have lists of them.

    Raises: `DataError` for a row with another number of scores than of hypotheses, and for one with none.
    """
    for i, item in enumerate(items):
        if not item[TEXTS] or len(item[TEXTS]) != len(item[SCORES]):
            raise DataError(
                f"row {i + 1} of a batch has {len(item[TEXTS])} hypotheses and {len(item[SCORES])} scores; each needs "
                "its own, and a row at least one."
            )
    most = max(len(item[TEXTS]) for item in items)
    longest = max(1, *(len(text) for item in items for text in item[TEXTS]))
    texts = torch.full((len(items), most, longest), IGNORED)
    scores = torch.full((len(items), most), -torch.inf)
    for i, item in enumerate(items):
        scores[i, : len(item[SCORES])] = torch.tensor(item[SCORES])
        for n, text in enumerate(item[TEXTS]):
            texts[i, n, : len(text)] = torch.tensor(text, dtype=torch.long)
    return {TEXTS: texts, SCORES: scores}
