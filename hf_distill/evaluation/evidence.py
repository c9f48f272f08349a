"""What a metric is made of, row by row, so that it can be taken again over rows drawn anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hf_distill.errors import DataError
from hf_distill.evaluation.fidelity import Interval, bootstrap
from hf_distill.evaluation.metrics import METRICS
from hf_distill.evaluation.retrieval import correlation

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Evidence:
    """`rows` `[rows, columns]` of a kind: the values of which the metric is the `mean`; right, found and there of the
    entities of a sentence, or of the classes of a text (`entities`); wrong and said of the words of a sound
    (`errors`); or the predicted and the true label for a metric of that name.

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
        """The metric over the chosen rows, by default over all: what is not defined there is noted in the log, once.

        Over chosen rows it is computed in a way that is quick enough for thousands of resamples, to the same value.
        """
        if chosen is None:
            return self._of_all
        if self.kind in QUICK:
            return QUICK[self.kind](self._read[chosen])
        return KINDS[self.kind](self.rows[chosen])

    def interval(self) -> Interval:
        """The metric with its 95 % percentile interval over resampled rows."""
        return bootstrap(self.value, np.arange(len(self.rows)))

    @cached_property
    def _of_all(self) -> float:
        return KINDS[self.kind](self.rows)

    @cached_property
    def _read(self) -> NDArray[Any]:
        """The rows as their quick metric reads them."""
        if self.kind == "matthews_correlation":  # all the classes that there are, by number
            return np.unique(self.rows, return_inverse=True)[1].reshape(self.rows.shape)
        if self.kind == "spearmanr":  # each column's values by their order
            return np.stack([np.unique(column, return_inverse=True)[1].ravel() for column in self.rows.T], axis=1)
        return self.rows


def difference(
    pairs: Sequence[tuple[Evidence, Evidence]], *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Interval:
    """(1/S) Σ_s [metric(method, seed s) - metric(control, seed s)] with its percentile interval over seeds and rows.

    Each sample draws as many rows as there are, the same ones for all models, and as many seeds (Efron and Tibshirani,
    1993, chapter 13). Few seeds tell little of their spread: the interval of one is over rows alone.

    Raises: `DataError` where the models did not answer the same rows.
    """
    shapes = {evidence.rows.shape for pair in pairs for evidence in pair}
    if len(shapes) != 1 or len({evidence.kind for pair in pairs for evidence in pair}) != 1:
        found = ", ".join(f"{evidence.kind} {list(evidence.rows.shape)}" for pair in pairs for evidence in pair)
        raise DataError(f"a difference of models that answered other rows: {found or 'none'}.")
    number, random = len(pairs[0][0].rows), np.random.default_rng(seed)

    def mean(chosen: np.ndarray, rows: np.ndarray | None) -> float:
        return float(np.mean([pairs[i][0].value(rows) - pairs[i][1].value(rows) for i in chosen]))

    sample = [
        mean(random.integers(0, len(pairs), size=len(pairs)), random.integers(0, number, size=number))
        for _ in range(resamples)
    ]
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean(np.arange(len(pairs)), None), float(low), float(high))


def _mean(rows: Floats) -> float:
    return float(rows.mean())


def entity_f1(rows: NDArray[Any]) -> float:
    """F1 of whole entities, or of classes, from their counts in each text: right, found, there; 0.0 where none is
    right."""
    right, found, there = rows.sum(axis=0)
    return float(2 * right / (found + there)) if right else 0.0


def error_rate(rows: NDArray[Any]) -> float:
    """Errors by what there is, of the counts of both in each row."""
    wrong, there = rows.sum(axis=0)
    return float(wrong / there) if there else float(wrong > 0)


def _accuracy(rows: Floats) -> float:
    return float((rows[:, 0] == rows[:, 1]).mean())


def _f1(rows: Floats) -> float:
    """Of class 1; 0.0 where it is neither said nor true."""
    ones = rows == 1
    number = int(ones.sum())
    return 2.0 * int(ones.all(axis=1).sum()) / number if number else 0.0


def _matthews(rows: NDArray[np.int64]) -> float:
    """(c n - s't) / sqrt((n² - s's)(n² - t't)) of n rows, c of which are right, that were said to be of class k s_k
    times, and are t_k times (Gorodkin, 2004, Comput. Biol. Chem. 28); 0.0 where only one class is said, or true."""
    number, classes = float(len(rows)), int(rows.max()) + 1
    said, true = (np.bincount(column, minlength=classes).astype(np.float64) for column in rows.T)
    spread = (number**2 - said @ said) * (number**2 - true @ true)
    right = float((rows[:, 0] == rows[:, 1]).sum())
    return float((right * number - said @ true) / np.sqrt(spread)) if spread else 0.0


def _spearman(rows: NDArray[np.int64]) -> float:
    return correlation(np.stack([_ranks(column) for column in rows.T], axis=1))


def _ranks(places: NDArray[np.int64]) -> Floats:
    """The rank of each row, from its value's place among all values; equal ones share the mean of theirs."""
    counts = np.bincount(places)
    ranks: Floats = np.cumsum(counts) - (counts - 1) / 2.0
    return ranks[places]


def _labels(name: str) -> Callable[[Floats], float]:
    return lambda rows: METRICS[name](rows[:, 0], rows[:, 1])


KINDS: dict[str, Callable[[Floats], float]] = {
    "mean": _mean,
    "entities": entity_f1,
    "errors": error_rate,
    **{name: _labels(name) for name in METRICS},
}
QUICK: dict[str, Callable[[NDArray[Any]], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": correlation,
    "spearmanr": _spearman,
}
"""Those of `METRICS`, without scikit-learn's and scipy's looking at their arguments, and 0.0 where not defined."""

COLUMNS = {"mean": 1, "entities": 3}
"""Of the other kinds there are two."""
