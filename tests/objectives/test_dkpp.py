"""Dark knowledge with permuted predictions."""

from __future__ import annotations

import logging

import pytest
import torch

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.response.dkpp import drawn, permuted
from tests.objectives.answers import bound, randn, value


def test_the_largest_stays_and_the_others_are_the_same_numbers() -> None:
    logits = randn(200, 7)
    found = permuted(logits, drawn(logits, 0))
    assert torch.equal(found.argmax(-1), logits.argmax(-1))
    assert torch.equal(found.amax(-1), logits.amax(-1))
    assert torch.equal(found.sort(-1).values, logits.sort(-1).values)
    assert (found != logits).any(-1).float().mean() > 0.95


def test_permutes_by_hand() -> None:
    logits = torch.tensor([[5.0, 1.0, 2.0, 3.0], [1.0, 2.0, 5.0, 3.0]])
    permutations = torch.tensor([[1, 2, 0], [2, 0, 1]])
    assert permuted(logits, permutations).tolist() == [[5.0, 2.0, 3.0, 1.0], [3.0, 1.0, 5.0, 2.0]]


def test_every_order_is_as_likely() -> None:
    logits = randn(12000, 5)
    orders, counts = drawn(logits, 3).unique(dim=0, return_counts=True)
    assert len(orders) == 24
    # 500 of each are expected, with a standard deviation of 22.
    assert 390 < int(counts.min()) <= int(counts.max()) < 610


def test_a_row_keeps_its_order_whatever_stands_beside_it() -> None:
    logits = randn(6, 5)
    order = torch.tensor([3, 0, 5, 1])
    assert torch.equal(drawn(logits[order], 1), drawn(logits, 1)[order])
    assert torch.equal(drawn(logits.float().double(), 1), drawn(logits.float(), 1))


def test_seeds_differ() -> None:
    logits = randn(200, 7)
    assert (drawn(logits, 0) != drawn(logits, 1)).any(-1).float().mean() > 0.95


def test_is_the_cross_entropy_to_the_permuted_law() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    law = permuted(teacher, drawn(teacher, 7)).softmax(-1)
    expected = -(law * student.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(value(bound("dkpp", seed=7), student, teacher), expected)


def test_warns_of_two_classes(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        objective = bound("dkpp", classes=2)
    assert "two classes leave nothing to permute" in caplog.text
    student, teacher = randn(3, 2), randn(3, 2, seed=1)
    plain = bound("soft_targets", classes=2, kind="cross_entropy", temperature=1.0)
    torch.testing.assert_close(value(objective, student, teacher), value(plain, student, teacher))


@pytest.mark.parametrize("seed", [-1, 0.5, True, "1", 2**32])
def test_refuses_seeds_that_are_none(seed: object) -> None:
    with pytest.raises(DistillationError, match="dkpp: seed is"):
        bound("dkpp", seed=seed)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"dkpp: .*a {task} task"):
        bound("dkpp", task)
