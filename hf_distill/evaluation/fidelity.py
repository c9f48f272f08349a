"""How closely a student follows its teacher, how well it knows what it knows, and whether a gain is more than chance.

Functions of numpy arrays: logits `[rows, classes]`, labels `[rows]`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from hf_distill.errors import DataError
from hf_distill.evaluation.retrieval import correlation

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def agreement(student_logits: ArrayLike, teacher_logits: ArrayLike) -> float:
    """The share of rows on which student and teacher prefer the same class (top-1 agreement, Stanton et al., 2021,
    arXiv:2106.05945, section 3). For a regression (logits `[rows, 1]` or `[rows]`), Pearson's correlation of the two;
    0.0 where it is not defined, as one of them is constant.

    Errors: DataError for different shapes, no rows, or NaN.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    if student.shape[1] > 1:
        return float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean())
    return correlation(np.concatenate([student, teacher], axis=1))


def agreement_of_sets(student_logits: ArrayLike, teacher_logits: ArrayLike) -> float:
    """The share of rows of which student and teacher say the same classes: those whose logit is above 0.

    Errors: as `agreement`.
    """
    student, teacher = _pair(student_logits, teacher_logits)
    return float(((student > 0) == (teacher > 0)).all(axis=1).mean())


def expected_calibration_error(logits: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Σ_b n_b/n |accuracy_b - confidence_b| over bins of equal width (Guo et al., 2017, arXiv:1706.04599, equation 3).

    The confidence of a row is its largest probability; bin b of B holds those in ((b-1)/B, b/B].

    Errors: DataError for logits that are not `[rows, 2 or more]`, labels that are no class ids, or bins below 1.
    """
    if bins < 1:
        raise DataError(f"expected_calibration_error: bins is {bins}; it must be at least 1.")
    probabilities, classes = _probabilities(logits, labels)
    return calibration_bins(probabilities.max(axis=1), probabilities.argmax(axis=1) == classes, bins).error


def confidence(logits: ArrayLike) -> Floats:
    """The largest probability of each row, `[rows]`.

    Errors: DataError for logits that are not `[rows, 2 or more]`, no rows, or NaN.
    """
    found = _logits(logits)
    if found.shape[1] < 2:
        raise DataError(f"confidence: logits {list(found.shape)}; expected [rows, 2 or more].")
    largest: Floats = special.softmax(found, axis=1).max(axis=1)
    return largest


class Bins(NamedTuple):
    """Rows by the confidence of their answer: how many are in each bin, their mean confidence and the share that is
    right, both 0 in an empty bin, and the expected calibration error."""

    counts: NDArray[np.int64]
    confidence: Floats
    accuracy: Floats
    error: float


def calibration_bins(confidence: Floats, correct: NDArray[np.bool_], bins: int = 15) -> Bins:
    """The bins of `expected_calibration_error`, of which a reliability diagram is drawn (Niculescu-Mizil and Caruana,
    2005, ICML). Both arguments are `[rows]`; the confidence is in (0, 1]."""
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sure = np.bincount(index, weights=confidence, minlength=bins)
    right = np.bincount(index, weights=correct, minlength=bins)
    filled = np.maximum(counts, 1)
    return Bins(counts, sure / filled, right / filled, float(np.abs(right - sure).sum() / len(confidence)))


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """A proportion and its score interval (Wilson, 1927, JASA 22(158)); it stays inside [0, 1].

    Errors: DataError for counts that are no proportion, or a level outside (0, 1).
    """
    if not 0 <= successes <= n or n < 1:
        raise DataError(f"wilson_interval: {successes} successes of {n}; expected 0 <= successes <= n and n >= 1.")
    _check_level(level)
    interval = stats.binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
    return Interval(successes / n, float(interval.low), float(interval.high))


def mcnemar_p_value(student_correct: ArrayLike, control_correct: ArrayLike) -> float:
    """The exact two-sided p value of McNemar's test (McNemar, 1947, Psychometrika 12): are the rows that only one of
    two models gets right shared out between them as by a fair coin? 1.0 where there are no such rows.

    Both are booleans `[rows]`, of the same rows. Errors: DataError for other values or shapes.
    """
    student, control = np.asarray(student_correct), np.asarray(control_correct)
    if student.dtype != bool or control.dtype != bool or student.ndim != 1 or student.shape != control.shape:
        raise DataError(
            f"mcnemar_p_value: {_shape(student)} and {_shape(control)}; expected two lists of bool, equally long."
        )
    only_student = int((student & ~control).sum())
    differing = only_student + int((control & ~student).sum())
    return float(stats.binomtest(only_student, differing).pvalue) if differing else 1.0


def bootstrap(
    metric: Callable[[NDArray[Any]], float],
    rows: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """metric(rows), with its percentile interval over resampled rows (Efron and Tibshirani, 1993, chapter 13).

    `rows` is `[rows]` or `[rows, ...]`. Errors: DataError for no rows, a level outside (0, 1), or fewer than 100
    resamples.
    """
    found = np.asarray(rows)
    if found.ndim < 1 or not len(found):
        raise DataError(f"bootstrap: {_shape(found)}; expected a list of at least one row.")
    _check_level(level)
    if resamples < 100:
        raise DataError(f"bootstrap: {resamples} resamples are too few for an interval; take 100 or more.")
    random, number = np.random.default_rng(seed), len(found)
    sample = [metric(found[random.integers(0, number, size=number)]) for _ in range(resamples)]
    low, high = np.quantile(sample, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(metric(found)), float(low), float(high))


def _logits(values: ArrayLike) -> Floats:
    logits = np.asarray(values, dtype=np.float64)
    logits = logits[:, None] if logits.ndim == 1 else logits
    if logits.ndim != 2 or not logits.size or np.isnan(logits).any():
        raise DataError(f"logits {list(logits.shape)}: expected numbers [rows, classes], not empty and without NaN.")
    return logits


def _pair(student_logits: ArrayLike, teacher_logits: ArrayLike) -> tuple[Floats, Floats]:
    student, teacher = _logits(student_logits), _logits(teacher_logits)
    if student.shape != teacher.shape:
        raise DataError(f"agreement: student logits {list(student.shape)}, teacher logits {list(teacher.shape)}.")
    return student, teacher


def _probabilities(values: ArrayLike, labels: ArrayLike) -> tuple[Floats, NDArray[np.int64]]:
    logits, classes = _logits(values), np.asarray(labels)
    width = logits.shape[1]
    if width < 2 or classes.shape != logits.shape[:1] or not np.issubdtype(classes.dtype, np.integer):
        raise DataError(
            f"logits {list(logits.shape)}, labels {_shape(classes)}: expected [rows, 2 or more], class ids [rows]."
        )
    if classes.min() < 0 or classes.max() >= width:
        raise DataError(f"labels from {classes.min()} to {classes.max()}, but the logits have {width} classes.")
    return special.softmax(logits, axis=1), classes


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise DataError(f"confidence level {level}: expected a number between 0 and 1, such as 0.95.")


def _shape(array: NDArray[np.generic]) -> str:
    return f"{array.dtype} {list(array.shape)}"
