"""Annealing-KD: targets that grow to the teacher's logits."""

from __future__ import annotations

import pytest
import torch

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.response.annealing import phi
from tests.objectives.answers import bound, gradient, randn, value


@pytest.mark.parametrize("blocks", [1, 2, 3, 7, 10])
def test_blocks_are_equal_and_end_at_one(blocks: int) -> None:
    steps = 6 * blocks
    shares = [phi(step / steps, blocks) for step in range(steps)]
    assert shares == [(step // 6 + 1) / blocks for step in range(steps)]
    assert phi(1.0, blocks) == 1.0


def test_without_a_trainer_the_targets_are_the_teachers_logits() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    expected = value(bound("soft_targets", kind="logit_mse"), student, teacher)
    assert torch.equal(value(bound("annealing"), student, teacher), expected)


def test_the_share_follows_the_progress() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    objective = bound("annealing", max_temperature=4)
    for progress, share in ((0.0, 0.25), (0.24, 0.25), (0.25, 0.5), (0.6, 0.75), (0.99, 1.0), (1.0, 1.0)):
        objective.progress = progress
        expected = (student - share * teacher).square().mean()
        torch.testing.assert_close(value(objective, student, teacher), expected)


def test_numbers_are_compared_one_by_one_where_no_class_is_single() -> None:
    student, teacher = randn(3, 2), randn(3, 2, seed=1)
    for task in ("regression", "multi_label"):
        objective = bound("annealing", task, classes=2)
        torch.testing.assert_close(value(objective, student, teacher), (student - teacher).square().mean())
    labels = torch.tensor([[1.0, -100.0], [0.0, 1.0], [-100.0, -100.0]])
    known = labels != -100
    torch.testing.assert_close(value(objective, student, teacher, labels), (student - teacher)[known].square().mean())
    assert not gradient(objective, student, teacher, labels)[~known].any()


def test_refuses_question_answering() -> None:
    with pytest.raises(IncompatiblePair, match=r"annealing: a mean over the positions .* question_answering"):
        bound("annealing", "question_answering")


@pytest.mark.parametrize("temperature", [0, -1, 1.5, True, "7"])
def test_refuses_temperatures_that_are_no_number_of_blocks(temperature: object) -> None:
    with pytest.raises(DistillationError, match="annealing: max_temperature is"):
        bound("annealing", max_temperature=temperature)
