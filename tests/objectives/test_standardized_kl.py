"""Soft targets from standardised logits."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import standardized
from tests.objectives.answers import bound, gradient, randn, value


@pytest.mark.parametrize("ddof", [0, 1])
def test_standardizes_as_numpy_does(ddof: int) -> None:
    logits = randn(5, 4)
    rows = logits.numpy()
    expected = (rows - rows.mean(-1, keepdims=True)) / (rows.std(-1, keepdims=True, ddof=ddof) + 1e-7)
    torch.testing.assert_close(standardized(logits, ddof), torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
    assert numpy.allclose(standardized(logits, ddof).std(-1, correction=ddof), 1.0, atol=1e-6)


def test_scale_and_offset_of_either_side_do_not_matter() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    for deviation in ("population", "sample"):
        objective = bound("standardized_kl", deviation=deviation)
        expected = value(objective, student, teacher)
        torch.testing.assert_close(value(objective, 9 * student - 2, 0.3 * teacher + 5), expected, rtol=1e-5, atol=0)
        assert value(objective, student, 2 * student + 1).abs() < 1e-12


def test_a_row_of_equal_logits_says_nothing_and_that_is_said() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    student[1] = 0.0
    objective = bound("standardized_kl")
    found = gradient(objective, student, teacher)
    assert found.isfinite().all()
    assert not found[1].any()
    assert found[0].any()
    assert objective.remarks() == ["a row has equal logits for all classes, and so no order to learn from."]
    quiet = bound("standardized_kl")
    value(quiet, randn(3, 4), teacher)
    assert quiet.remarks() == []


def test_padding_is_no_row_of_equal_logits() -> None:
    objective = bound("standardized_kl", "token_classification")
    labels = torch.tensor([[0, 0, -100], [0, -100, -100]])
    value(objective, randn(2, 3, 4), randn(2, 3, 4, seed=1), labels)
    assert objective.remarks() == []
    value(objective, randn(2, 3, 4), torch.ones(2, 3, 4, dtype=torch.float64), labels)
    assert objective.remarks()


@pytest.mark.parametrize("classes", [1, 2])
def test_refuses_one_and_two_classes(classes: int) -> None:
    found = "1 class," if classes == 1 else "2 classes,"
    with pytest.raises(IncompatiblePair, match=f"standardized_kl: the task has {found} and at least 3 are needed"):
        bound("standardized_kl", classes=classes)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"standardized_kl: .*a {task} task"):
        bound("standardized_kl", task)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": -2.0}, "temperature is -2.0"),
        ({"deviation": "samples"}, r"deviation is 'samples' \(did you mean 'sample'\?\)"),
        ({"tokens": "some"}, "tokens is 'some'"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(DistillationError, match=f"standardized_kl: {words}"):
        bound("standardized_kl", **settings)


@pytest.mark.parametrize(("classes", "offset"), [(50_257, -90.0), (256_000, -100.0), (250_112, 60.0)])
def test_the_offset_of_a_large_vocabulary_does_not_matter(classes: int, offset: float) -> None:
    """What each logit is rounded to behind an offset of 100 is off by 4e-6; that is no row of equal logits."""
    logits = 3.0 * randn(2, classes)
    found = standardized((logits + offset).float().requires_grad_())
    expected = (logits - logits.mean(-1, keepdim=True)) / logits.std(-1, correction=0, keepdim=True)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-5)
    assert found.requires_grad
    assert found.norm() > 0
    objective = bound("standardized_kl", classes=classes)
    found = value(objective, randn(2, classes, seed=1).float() + offset, logits.float() + offset)
    kept = value(objective, randn(2, classes, seed=1), logits)
    torch.testing.assert_close(found.double(), kept.double(), rtol=1e-4, atol=0)
    assert objective.remarks() == []


@pytest.mark.parametrize("classes", [3, 7, 1000, 50_257, 256_000])
def test_logits_that_are_equal_but_for_rounding_say_nothing(classes: int) -> None:
    logits = torch.full((1, classes), 10.1)
    logits[0, 1] = torch.nextafter(logits[0, 1], torch.tensor(11.0))
    logits.requires_grad_()
    found = standardized(logits)
    found.square().sum().backward()
    assert not found.any()
    assert not logits.grad.any()


def test_what_is_no_number_stays_none() -> None:
    logits = torch.tensor([[math.nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    found = standardized(logits)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()
