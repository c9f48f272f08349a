"""What is special to patient distillation: the pooled token, the norm, the blocks and the authors' mean."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives import PKD, Pair
from hf_distill.tasks import TASKS
from tests.shapes import shape

TASK = TASKS["single_label"]


def states(seed: int, examples: int = 2, length: int = 4) -> Tensor:
    return torch.randn(examples, length, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(student: Tensor, teacher: Tensor, mask: Tensor, **settings: Any) -> float:
    """Over one pair of blocks, the first of two."""
    objective = PKD(**settings)
    objective.bind(Pair.from_shapes(shape(), shape(), TASK))
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    return float(objective(*(Activations(mask=mask, hidden={1: side}) for side in (student, teacher)), batch))


def distance(student: Tensor, teacher: Tensor) -> float:
    return sum(float(s / student.norm() - t / teacher.norm()) ** 2 for s, t in zip(student, teacher, strict=True))


@pytest.mark.parametrize(
    ("mask", "first", "last"),
    [
        ([[1, 1, 1, 1], [1, 1, 0, 0]], (0, 0), (3, 1)),
        ([[1, 1, 1, 1], [0, 0, 1, 1]], (0, 2), (3, 3)),
        ([[0, 1, 1, 0], [0, 1, 0, 0]], (1, 1), (2, 1)),
    ],
)
def test_the_token_that_is_pooled(mask: list[list[int]], first: tuple[int, int], last: tuple[int, int]) -> None:
    student, teacher, real = states(0), states(1), torch.tensor(mask)
    for pooling, places in (("first_token", first), ("last_token", last)):
        expected = sum(distance(student[b, at], teacher[b, at]) for b, at in enumerate(places))
        assert loss(student, teacher, real, pooling=pooling) == pytest.approx(expected, rel=1e-12)


def test_lengths_of_vectors_do_not_matter_unless_asked_for() -> None:
    mask = torch.ones(2, 4, dtype=torch.long)
    plain = loss(states(0), states(1), mask)
    assert loss(3.0 * states(0), 0.2 * states(1), mask) == pytest.approx(plain, rel=1e-12)
    raw = loss(states(0), states(1), mask, normalize=False)
    assert raw == pytest.approx(float((states(0) - states(1))[:, 0].square().sum()), rel=1e-12)
    assert raw != pytest.approx(plain, rel=1e-3)


def test_the_authors_mean_divides_by_blocks_and_width() -> None:
    mask = torch.ones(2, 4, dtype=torch.long)
    batch = {"input_ids": mask, "attention_mask": mask}
    found = {}
    for reduction in ("example_mean", "element_mean"):
        objective = PKD(reduction=reduction)
        objective.bind(Pair.from_shapes(shape(4), shape(4), TASK))
        sides = [Activations(mask=mask, hidden={j: states(j + seed) for j in (1, 2, 3)}) for seed in (0, 10)]
        found[reduction] = float(objective(*sides, batch))
    assert found["example_mean"] == pytest.approx(3 * 4 * found["element_mean"], rel=1e-12)


def test_a_zero_vector_is_finite_and_an_example_without_text_counts_nothing() -> None:
    mask = torch.tensor([[1, 1], [0, 0]])
    student = torch.zeros(2, 2, 4, requires_grad=True)
    objective = PKD()
    objective.bind(Pair.from_shapes(shape(), shape(), TASK))
    batch = {"input_ids": mask, "attention_mask": mask}
    teacher = torch.ones(2, 2, 4)
    value = objective(*(Activations(mask=mask, hidden={1: side}) for side in (student, teacher)), batch)
    value.backward()
    assert float(value.detach()) == pytest.approx(1.0, rel=1e-6)
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()
    assert not student.grad[1].any()
    assert int(objective.count(batch, TASK)) == 1


def test_the_last_block_is_left_out() -> None:
    objective = PKD()
    objective.bind(Pair.from_shapes(shape(6), shape(12), TASK))
    assert list(objective.layers) == [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]


def test_other_widths_are_refused() -> None:
    with pytest.raises(IncompatiblePair, match=r"4 wide, the teacher's 6.*hidden_mse"):
        PKD().bind(Pair.from_shapes(shape(width=4), shape(width=6), TASK))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pooling": "cls"}, "pooling is 'cls'; it may be first_token, last_token"),
        ({"normalize": "yes"}, "normalize is 'yes'; it may be true or false"),
        ({"reduction": "sum"}, "reduction is 'sum'"),
    ],
)
def test_settings_are_checked_where_they_enter(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        PKD(**settings)
