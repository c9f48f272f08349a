"""Divergences, masked sums, layer maps and sums of terms, on numbers drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hf_distill import losses
from hf_distill.errors import IncompatiblePair
from hf_distill.layer_map import NAMES, LayerMap
from hf_distill.objectives import HiddenCosine, HiddenMSE, Labels, Objective, SoftTargets, Terms

few = settings(max_examples=40, deadline=None, derandomize=True, database=None)
shares = st.floats(1e-6, 1.0 - 1e-6)
DIVERGENCES: dict[str, Callable[..., Tensor]] = {
    "forward_kl": lambda q, p, _: losses.forward_kl(q, p),
    "reverse_kl": lambda q, p, _: losses.reverse_kl(q, p),
    "jsd": losses.generalized_jsd,
    "skew_kl": losses.skew_kl,
    "skew_reverse_kl": losses.skew_reverse_kl,
    "bernoulli_kl": lambda q, p, _: losses.bernoulli_kl(q, p),
}


@st.composite
def logits(draw: Any) -> tuple[Tensor, Tensor]:
    """Two tensors [rows, classes] of one shape, moderate to huge."""
    rows, classes = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    size = draw(st.sampled_from([1.0, 30.0, 1e4]))
    numbers = st.lists(st.floats(-size, size), min_size=rows * classes, max_size=rows * classes)
    first, second = (torch.tensor(draw(numbers), dtype=torch.float64).reshape(rows, classes) for _ in range(2))
    return first, second


@pytest.mark.parametrize("name", DIVERGENCES)
@few
@given(pair=logits(), share=shares)
def test_divergences_are_finite_and_not_negative(name: str, pair: tuple[Tensor, Tensor], share: float) -> None:
    for dtype, slack in ((torch.float64, 1e-9), (torch.float32, 1e-3)):
        student, teacher = (side.to(dtype) for side in pair)
        values = DIVERGENCES[name](student, teacher, share)
        assert torch.isfinite(values).all()
        assert (values >= -slack).all()


@pytest.mark.parametrize("name", DIVERGENCES)
@few
@given(pair=logits(), share=shares)
def test_divergences_are_zero_between_equals(name: str, pair: tuple[Tensor, Tensor], share: float) -> None:
    values = DIVERGENCES[name](pair[0], pair[0], share)
    torch.testing.assert_close(values, torch.zeros_like(values), rtol=0, atol=1e-9)


@few
@given(pair=logits(), share=shares)
def test_jsd_is_symmetric_and_below_the_entropy_of_its_share(pair: tuple[Tensor, Tensor], share: float) -> None:
    student, teacher = pair
    values = losses.generalized_jsd(student, teacher, share)
    mirrored = losses.generalized_jsd(teacher, student, 1.0 - share)
    torch.testing.assert_close(values, mirrored, rtol=1e-7, atol=1e-9)
    most = -share * math.log(share) - (1.0 - share) * math.log(1.0 - share)
    assert (values <= most + 1e-9).all()


@few
@given(pair=logits())
def test_cross_entropy_is_the_kl_and_the_entropy(pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = pair
    law = torch.softmax(teacher, -1)
    entropy = -torch.xlogy(law, law).sum(-1)
    expected = losses.forward_kl(student, teacher) + entropy
    torch.testing.assert_close(losses.cross_entropy(student, teacher), expected, rtol=1e-9, atol=1e-9)


@few
@given(pair=logits())
def test_cosine_distance_lies_between_0_and_2(pair: tuple[Tensor, Tensor]) -> None:
    values = losses.cosine_distance(*pair)
    assert (values >= -1e-9).all()
    assert (values <= 2 + 1e-9).all()


@few
@given(rows=st.lists(st.tuples(st.floats(-1e3, 1e3) | st.just(math.nan), st.booleans()), max_size=12))
def test_masked_sum_is_the_sum_of_what_is_kept(rows: list[tuple[float, bool]]) -> None:
    rows = [(value, keep and not math.isnan(value)) for value, keep in rows]
    values = torch.tensor([value for value, _ in rows], dtype=torch.float64)
    keep = torch.tensor([kept for _, kept in rows], dtype=torch.bool)
    found = losses.masked_sum(values, keep)
    torch.testing.assert_close(found, values[keep].sum(), rtol=1e-12, atol=1e-9)
    assert found.item() == pytest.approx(math.fsum(value for value, kept in rows if kept), abs=1e-9)


@few
@given(lengths=st.lists(st.integers(0, 4), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_example_means_are_means_of_what_is_kept(lengths: list[int], seed: int) -> None:
    values = torch.randn(len(lengths), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    mask = torch.arange(4) < torch.tensor(lengths).unsqueeze(1)
    expected = [sum(row[:n]) / n if n else 0.0 for row, n in zip(values.tolist(), lengths, strict=True)]
    torch.testing.assert_close(losses.example_means(values, mask), torch.tensor(expected, dtype=torch.float64))


# ---- layer maps ----


@pytest.mark.parametrize("name", NAMES)
@few
@given(student=st.integers(1, 48), teacher=st.integers(1, 96))
def test_maps_stay_in_range_and_in_order(name: str, student: int, teacher: int) -> None:
    try:
        pairs = list(LayerMap.resolve(name, student, teacher))
    except IncompatiblePair:
        deep_enough = teacher >= student
        expected = {
            "uniform": teacher % student != 0,
            "pkd_skip": not deep_enough or student == 1,
            "pkd_last": not deep_enough or student == 1,
            "first": not deep_enough,
            "last": not deep_enough,
            "one_to_one": teacher != student,
        }
        assert expected.get(name, False), "refused a map that exists"
        return
    assert pairs
    students, teachers = [a for a, _ in pairs], [b for _, b in pairs]
    assert students == sorted(set(students))
    assert teachers == sorted(teachers)
    assert 0 <= students[0] <= students[-1] <= student
    assert 0 <= teachers[0] <= teachers[-1] <= teacher
    assert all((a == 0) == (b == 0) for a, b in pairs) or teacher < student, "a block is paired with the embeddings"
    assert LayerMap.resolve([list(pair) for pair in pairs], student, teacher) == LayerMap(pairs)


@few
@given(student=st.integers(1, 48), times=st.integers(1, 4))
def test_spread_is_uniform_where_uniform_exists(student: int, times: int) -> None:
    assert LayerMap.resolve("spread", student, times * student) == LayerMap.resolve(
        "uniform", student, times * student
    )


@few
@given(student=st.integers(1, 96), teacher=st.integers(1, 96))
def test_spread_rounds_to_the_nearest_layer(student: int, teacher: int) -> None:
    for ours, theirs in LayerMap.resolve("spread", student, teacher):
        assert abs(2 * theirs * student - 2 * ours * teacher) <= student


# ---- terms ----

seven = st.lists(st.floats(0, 1e6), min_size=7, max_size=7)
makers = st.sampled_from([SoftTargets, Labels, HiddenCosine, HiddenMSE])


@few
@given(kinds=st.lists(makers, min_size=1, max_size=7), weights=seven, cut=st.integers(0, 7))
def test_sums_of_terms(kinds: list[type[Objective]], weights: list[float], cut: int) -> None:
    """However a sum is put in brackets: order, objects and weights are kept, and the names are unique and the same."""
    weighted = [weight * kind() for kind, weight in zip(kinds, weights, strict=False)]
    flat = Terms.of(weighted)
    split = Terms.of(weighted[:cut]) + Terms.of(weighted[cut:])
    added = sum(weighted[1:], Terms.of(weighted[0]))
    for terms in (flat, split, added):
        assert [term.objective for term in terms] == [term.objective for term in weighted]
        assert [term.weight for term in terms] == weights[: len(kinds)]
        found = [term.name for term in terms]
        assert len(set(found)) == len(found)
        assert found == [term.name for term in flat]
        assert all(name.startswith(kind.name) for name, kind in zip(found, kinds, strict=True))
