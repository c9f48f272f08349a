"""What a metric is made of, row by row, so that it can be taken again over rows drawn anew."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_distill.errors import DataError
from hf_distill.evaluation.metrics import METRICS

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """`rows` `[rows, columns]` of a kind: the values of which the metric is the `mean`; right, found and there of the
    entities of a sentence (`entities`); wrong and said of the words of a sound (`errors`); or the predicted and the
    true label for a metric of that name.

    Errors: DataError for another kind, or rows that are no numbers in as many columns, one row at least.
    """

    kind: str
    rows: Floats

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"evidence of the kind {self.kind!r}; the kinds are {', '.join(KINDS)}.")
        width = COLUMNS.get(self.kind, 2)
        if self.rows.ndim != 2 or self.rows.shape[1] != width or not len(self.rows) or np.isnan(self.rows).any():
            raise DataError(
                f"evidence {self.kind!r} of shape {list(self.rows.shape)}; expected numbers [rows, {width}], not "
                "empty and without NaN."
            )

    def value(self, chosen: NDArray[np.int64] | None = None) -> float:
        """The metric over the chosen rows, by default over all."""
        return KINDS[self.kind](self.rows if chosen is None else self.rows[chosen])


def _mean(rows: Floats) -> float:
    return float(rows.mean())


def entity_f1(rows: NDArray[Any]) -> float:
    """F1 of whole entities from their counts in each sentence: right, found, there; 0.0 where none is right."""
    right, found, there = rows.sum(axis=0)
    return float(2 * right / (found + there)) if right else 0.0


def error_rate(rows: NDArray[Any]) -> float:
    """Errors by what there is, of the counts of both in each row."""
    wrong, there = rows.sum(axis=0)
    return float(wrong / there) if there else float(wrong > 0)


def _labels(name: str) -> Callable[[Floats], float]:
    return lambda rows: METRICS[name](rows[:, 0], rows[:, 1])


KINDS: dict[str, Callable[[Floats], float]] = {
    "mean": _mean,
    "entities": entity_f1,
    "errors": error_rate,
    **{name: _labels(name) for name in METRICS},
}
COLUMNS = {"mean": 1, "entities": 3}
"""Of the other kinds there are two."""
