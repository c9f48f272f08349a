"""Agreement, calibration and tests of a difference, against values worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hf_distill.errors import DataError
from hf_distill.evaluation.fidelity import (
    agreement,
    agreement_of_sets,
    bootstrap,
    expected_calibration_error,
    mcnemar_p_value,
    wilson_interval,
)


def logits_of(*probabilities: float) -> np.ndarray:
    """Two-class logits whose second class has these probabilities."""
    return np.array([[math.log(1 - p), math.log(p)] for p in probabilities])


def test_agreement_is_the_share_of_equal_first_choices() -> None:
    student = [[3.0, 1.0, 0.0], [0.0, 1.0, 0.5], [0.0, 1.0, 2.0], [1.0, 0.0, 0.0]]
    teacher = [[0.2, 0.1, 0.0], [5.0, 1.0, 0.0], [-9.0, -8.0, -7.0], [9.0, 0.0, 8.0]]
    assert agreement(student, teacher) == 0.75
    assert agreement(teacher, teacher) == 1.0


def test_agreement_of_sets_is_that_of_all_classes_above_zero() -> None:
    """The first choice is the same in every row; of the second one a class is below 0 on one side."""
    student = [[3.0, 1.0, -1.0], [3.0, 1.0, -1.0], [-1.0, -2.0, -3.0]]
    teacher = [[9.0, 0.1, -0.1], [3.0, -0.1, -1.0], [-0.1, -5.0, -5.0]]
    assert agreement_of_sets(student, teacher) == pytest.approx(2 / 3)
    with pytest.raises(DataError, match="without NaN"):
        agreement_of_sets([[float("nan")]], [[1.0]])
    with pytest.raises(DataError, match=r"student logits \[1, 1\], teacher logits \[1, 2\]"):
        agreement_of_sets([[1.0]], [[1.0, 2.0]])


def test_agreement_of_a_regression_is_pearsons_correlation() -> None:
    # Deviations (-1, 0, 1) and (-1, 1, 0): 1 / sqrt(2 * 2).
    assert agreement([[1.0], [2.0], [3.0]], [[10.0], [30.0], [20.0]]) == pytest.approx(0.5, abs=1e-12)
    assert agreement([1.0, 2.0, 4.0], [-1.0, -2.0, -4.0]) == pytest.approx(-1.0, abs=1e-12)
    assert agreement([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_the_agreement_of_constant_regressions_is_zero_whatever_rounding_leaves() -> None:
    """The mean of twelve times 0.1 is not 0.1 in floating point, nor is that of 0.3."""
    one, other = np.full(12, 0.1), np.full(12, 0.3)
    assert (one.mean() - 0.1) * (other.mean() - 0.3) != 0, "else nothing is tried"
    assert agreement(one, other) == 0.0
    assert agreement(one, np.arange(12.0)) == agreement(np.arange(12.0), other) == 0.0


def test_expected_calibration_error_by_hand() -> None:
    # Confidences .6 .7 .9 .95 in bins (.5, .75] and (.75, 1] of 4: |1/2 - .65| * 2/4 + |1 - .925| * 2/4.
    logits = logits_of(0.6, 0.3, 0.9, 0.05)
    assert expected_calibration_error(logits, [1, 1, 1, 0], bins=4) == pytest.approx(0.075 + 0.0375, abs=1e-12)


def test_expected_calibration_error_takes_the_difference_over_a_bin_not_a_row() -> None:
    logits = logits_of(0.75, 0.75, 0.75, 0.75)
    assert expected_calibration_error(logits, [1, 1, 1, 0], bins=10) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(logits, [1, 1, 1, 1], bins=10) == pytest.approx(0.25, abs=1e-12)


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    # 0.5 is in (0, .5]; .75 in (.5, 1]: apart, so |0 - .5| / 2 + |1 - .75| / 2; together it would be |1/2 - .625|.
    logits = np.array([[0.0, 0.0], [math.log(0.25), math.log(0.75)]])
    assert expected_calibration_error(logits, [1, 1], bins=2) == pytest.approx(0.375, abs=1e-12)


def test_certain_predictions_fall_into_the_last_bin() -> None:
    logits = np.array([[1000.0, 0.0], [0.0, 1000.0]])
    assert expected_calibration_error(logits, [0, 1]) == 0.0
    assert expected_calibration_error(logits, [1, 0]) == 1.0


def test_expected_calibration_error_against_a_loop() -> None:
    random = np.random.default_rng(3)
    logits, labels = random.normal(size=(500, 4)) * 2, random.integers(0, 4, size=500)
    rows = []
    for row, label in zip(logits, labels, strict=True):
        weights = [math.exp(value) for value in row]
        rows.append((max(weights) / sum(weights), int(row.argmax() == label)))
    expected = 0.0
    for b in range(15):
        inside = [(p, hit) for p, hit in rows if b / 15 < p <= (b + 1) / 15]
        expected += abs(sum(hit - p for p, hit in inside)) / len(rows)
    assert expected_calibration_error(logits, labels) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("successes", "n"), [(0, 10), (10, 10), (780, 872), (1, 2)])
@pytest.mark.parametrize(("level", "z"), [(0.95, 1.959963984540054), (0.99, 2.5758293035489004)])
def test_wilson_interval_from_its_formula(successes: int, n: int, level: float, z: float) -> None:
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = wilson_interval(successes, n, level)
    assert found == pytest.approx((p, max(centre - half, 0.0), min(centre + half, 1.0)), abs=1e-9)


@pytest.mark.parametrize(
    ("only_student", "only_control", "expected"),
    [
        (0, 0, 1.0),
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (3, 3, 1.0),
        (4, 1, 2 * (1 + 5) / 32),
        (9, 2, 2 * (1 + 11 + 55) / 2048),
    ],
)
def test_mcnemar_counts_coin_throws(only_student: int, only_control: int, expected: float) -> None:
    student = np.array([True] * only_student + [False] * only_control + [True] * 20 + [False] * 7)
    control = np.array([False] * only_student + [True] * only_control + [True] * 20 + [False] * 7)
    assert mcnemar_p_value(student, control) == pytest.approx(expected, abs=1e-12)


def test_the_bootstrap_of_a_mean_is_as_wide_as_theory_says() -> None:
    rows = np.random.default_rng(0).normal(3.0, 2.0, size=400)
    found = bootstrap(lambda chosen: float(chosen.mean()), rows, resamples=4000)
    error = rows.std() / 400**0.5
    assert found.value == pytest.approx(rows.mean(), abs=1e-12)
    assert found.low == pytest.approx(rows.mean() - 1.96 * error, abs=0.02)
    assert found.high == pytest.approx(rows.mean() + 1.96 * error, abs=0.02)


def test_the_bootstrap_draws_whole_rows_and_follows_the_seed() -> None:
    """Both columns of a row are drawn together: their difference is the same in every resample."""
    rows = np.arange(30).reshape(10, 3) + np.asarray([0, 5, 7])
    same = bootstrap(lambda chosen: float((chosen[:, 1] - chosen[:, 0]).mean()), rows)
    assert same == (6.0, 6.0, 6.0)
    first, again, other = (bootstrap(lambda chosen: float(chosen.mean()), rows, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


LABELS = [0, 1]
FINE = [[0.0, 1.0], [1.0, 0.0]]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: agreement(FINE, [[1.0, 0.0]]), r"student logits \[2, 2\], teacher logits \[1, 2\]"),
        (lambda: agreement([], []), "not empty"),
        (lambda: agreement([[float("nan"), 1.0]], [[0.0, 1.0]]), "without NaN"),
        (lambda: expected_calibration_error(FINE, LABELS, bins=0), "bins is 0"),
        (lambda: expected_calibration_error(FINE, [0]), r"labels int64 \[1\]"),
        (lambda: expected_calibration_error(FINE, [0, 2]), "labels from 0 to 2, but the logits have 2 classes"),
        (lambda: expected_calibration_error(FINE, [-1, 0]), "labels from -1"),
        (lambda: expected_calibration_error(FINE, [0.0, 1.0]), r"labels float64 \[2\]"),
        (lambda: expected_calibration_error([[1.0], [2.0]], LABELS), r"logits \[2, 1\]"),
        (lambda: wilson_interval(3, 2), "3 successes of 2"),
        (lambda: wilson_interval(0, 0), "0 successes of 0"),
        (lambda: wilson_interval(1, 2, 95), "confidence level 95"),
        (lambda: mcnemar_p_value([1, 0], [True, False]), r"int64 \[2\] and bool \[2\]"),
        (lambda: mcnemar_p_value([True], [True, False]), r"bool \[1\] and bool \[2\]"),
        (lambda: bootstrap(np.mean, []), "at least one row"),
        (lambda: bootstrap(np.mean, 3.0), "at least one row"),
        (lambda: bootstrap(np.mean, [1.0], resamples=10), "10 resamples"),
        (lambda: bootstrap(np.mean, [1.0], level=0.0), "confidence level 0.0"),
    ],
)
def test_wrong_arguments_are_named(call: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        call()
