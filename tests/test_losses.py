"""The plain functions against sums written out, and their behaviour on what does not count."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from hf_distill import losses

NAN, INF = math.nan, math.inf
P, Q = (0.5, 0.3, 0.2), (0.2, 0.7, 0.1)
TEACHER, STUDENT = (torch.tensor([law, law[::-1]], dtype=torch.float64).log() for law in (P, Q))


def kl(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def mixture(weight: float) -> tuple[float, ...]:
    """weight p + (1 - weight) q."""
    return tuple(weight * a + (1 - weight) * b for a, b in zip(P, Q, strict=True))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (losses.forward_kl(STUDENT, TEACHER), kl(P, Q)),
        (losses.reverse_kl(STUDENT, TEACHER), kl(Q, P)),
        (losses.cross_entropy(STUDENT, TEACHER), kl(P, Q) - sum(a * math.log(a) for a in P)),
        (losses.generalized_jsd(STUDENT, TEACHER, 0.3), 0.3 * kl(P, mixture(0.3)) + 0.7 * kl(Q, mixture(0.3))),
        (losses.generalized_jsd(STUDENT, TEACHER, 0.0), kl(P, Q)),
        (losses.generalized_jsd(STUDENT, TEACHER, 1.0), kl(Q, P)),
        (losses.skew_kl(STUDENT, TEACHER, 0.1), kl(P, mixture(0.1))),
        (losses.skew_reverse_kl(STUDENT, TEACHER, 0.1), kl(Q, mixture(0.9))),
    ],
    ids=["forward_kl", "reverse_kl", "cross_entropy", "jsd", "jsd-0", "jsd-1", "skew_kl", "skew_reverse_kl"],
)
def test_divergences_by_hand(found: Tensor, expected: float) -> None:
    """One value a row; the second row holds the classes in the opposite order."""
    torch.testing.assert_close(found, torch.full((2,), expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_bernoulli_by_hand() -> None:
    r, s = 0.8, 0.3
    teacher, student = (torch.tensor([[p, p]], dtype=torch.float64).logit() for p in (r, s))
    entropy = -r * math.log(r) - (1 - r) * math.log(1 - r)
    cross = -r * math.log(s) - (1 - r) * math.log(1 - s)
    torch.testing.assert_close(losses.bernoulli_cross_entropy(student, teacher), torch.full((1, 2), cross).double())
    torch.testing.assert_close(losses.bernoulli_kl(student, teacher), torch.full((1, 2), cross - entropy).double())


def test_squares_and_cosines_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, 3.0]]), torch.tensor([[3.0, 2.0], [4.0, 0.0]])
    assert losses.logit_mse(student, teacher).tolist() == [2.0, 12.5]
    assert losses.logit_sse(student, teacher).tolist() == [4.0, 25.0]
    assert losses.logit_l1(student, teacher).tolist() == [2.0, 7.0]
    assert losses.mean_squared_difference(student, teacher).tolist() == [2.0, 12.5]
    assert losses.squared_difference(student, teacher).tolist() == [[4.0, 0.0], [16.0, 9.0]]
    expected = torch.tensor([1 - 7 / math.sqrt(5 * 13), 1.0])
    torch.testing.assert_close(losses.cosine_distance(student, teacher), expected)
    assert losses.cosine_distance(torch.zeros(1, 2), torch.ones(1, 2)).tolist() == [1.0]
    torch.testing.assert_close(losses.cosine_distance(student, -2 * student), torch.tensor([2.0, 2.0]))


def test_extreme_bernoulli_logits_stay_finite() -> None:
    student, teacher = torch.tensor([1e4, -1e4, 1e4]), torch.tensor([-1e4, 1e4, 1e4])
    assert losses.bernoulli_kl(student, teacher).tolist() == [1e4, 1e4, 0.0]
    assert losses.bernoulli_cross_entropy(student, teacher).tolist() == [1e4, 1e4, 0.0]


def test_a_ruled_out_class_has_no_gradient_of_its_own() -> None:
    student = torch.zeros(1, 3, requires_grad=True)
    value = losses.forward_kl(student, torch.tensor([[0.0, -INF, 0.0]]))
    assert float(value.detach()) == pytest.approx(math.log(3 / 2), rel=1e-6)
    value.backward()
    torch.testing.assert_close(student.grad, torch.tensor([[1 / 3 - 1 / 2, 1 / 3, 1 / 3 - 1 / 2]]))


DIVERGENCES = {
    "forward_kl": losses.forward_kl,
    "reverse_kl": losses.reverse_kl,
    "cross_entropy": losses.cross_entropy,
    "jsd": partial(losses.generalized_jsd, beta=0.3),
    "jsd_0": partial(losses.generalized_jsd, beta=0.0),
    "jsd_1": partial(losses.generalized_jsd, beta=1.0),
    "skew_kl": partial(losses.skew_kl, alpha=0.1),
    "skew_reverse_kl": partial(losses.skew_reverse_kl, alpha=0.1),
}


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_a_class_that_both_rule_out_counts_nothing(kind: str) -> None:
    """Value and gradient are those without it, to the last digit."""
    divergence = DIVERGENCES[kind]
    ruled_out = torch.full((2, 1), -INF, dtype=torch.float64)
    alone, student = STUDENT.clone().requires_grad_(), torch.cat([STUDENT, ruled_out], -1).requires_grad_()
    expected, found = divergence(alone, TEACHER), divergence(student, torch.cat([TEACHER, ruled_out], -1))
    assert torch.equal(found, expected)
    expected.sum().backward()
    found.sum().backward()
    assert alone.grad is not None
    assert student.grad is not None
    torch.testing.assert_close(student.grad, torch.cat([alone.grad, torch.zeros_like(ruled_out)], -1), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("forward_kl", INF),
        ("reverse_kl", math.log(2)),
        ("cross_entropy", INF),
        ("jsd", 0.3 * (math.log(0.5 / 0.15) + math.log(0.5 / 0.85)) / 2 + 0.7 * math.log(1 / 0.85)),
        ("skew_kl", (math.log(0.5 / 0.05) + math.log(0.5 / 0.95)) / 2),
        ("skew_reverse_kl", math.log(1 / 0.55)),
    ],
)
def test_a_class_that_the_student_alone_rules_out(kind: str, value: float) -> None:
    student, teacher = torch.tensor([[0.0, -INF]]).double().requires_grad_(), torch.zeros(1, 2).double()
    found = DIVERGENCES[kind](student, teacher)
    assert found.tolist() == [pytest.approx(value, rel=1e-12)]
    found.sum().backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


# ---- masks ----


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.bool, torch.long, torch.float32])
def test_masked_sum_leaves_out_anything(bad: float, dtype: torch.dtype) -> None:
    values = torch.tensor([[1.0, bad], [2.0, 4.0]], requires_grad=True)
    total = losses.masked_sum(values, torch.tensor([[1, 0], [1, 1]]).to(dtype))
    total.backward()
    assert total.item() == 7.0
    assert values.grad is not None
    assert values.grad.tolist() == [[1.0, 0.0], [1.0, 1.0]]


def test_masked_sum_without_a_mask_and_of_nothing() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert losses.masked_sum(values, None).item() == 3.0
    nothing = losses.masked_sum(values, torch.zeros(2))
    assert nothing.item() == 0.0
    nothing.backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("bad", [NAN, INF])
def test_blank_cuts_values_and_gradients(bad: float) -> None:
    tensor = torch.tensor([[[1.0, 2.0], [bad, bad]]], requires_grad=True)
    kept = losses.blank(tensor, torch.tensor([[1, 0]]))
    assert kept.tolist() == [[[1.0, 2.0], [0.0, 0.0]]]
    kept.log_softmax(-1).square().sum().backward()
    assert tensor.grad is not None
    assert tensor.grad[0, 1].tolist() == [0.0, 0.0]
    assert tensor.grad[0, 0].any()
    assert losses.blank(tensor, None) is tensor


def test_example_means() -> None:
    values = torch.tensor([[1.0, 3.0, NAN], [5.0, NAN, NAN], [NAN, NAN, NAN]])
    assert losses.example_means(values, torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]])).tolist() == [2.0, 5.0, 0.0]
    deep = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])
    assert losses.example_means(deep, torch.tensor([[[1, 1], [0, 1]]])).tolist() == [3.0]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_at_least_float32(given: torch.dtype, kept: torch.dtype) -> None:
    tensor = torch.ones(2, dtype=given)
    found = losses.at_least_float32(tensor)
    assert found.dtype == kept
    assert (found is tensor) is (given == kept)
