"""The divergence of relations against loops in float64, in blocks of every size, and what it keeps in memory."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hf_distill import relations
from hf_distill.errors import DataError
from hf_distill.relations import relation_kl, scores_kl, visible_pairs

MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
PACKED = torch.tensor([[0, 1, 2, 0, 1], [1, 1, 0, 1, 0], [0, 1, 1, 1, 1]])
VIEWS: dict[str, dict[str, Any]] = {
    "all": {},
    "causal": {"causal": True},
    "packed": {"position_ids": PACKED},
    "packed and causal": {"position_ids": PACKED, "causal": True},
}
each_view = pytest.mark.parametrize("view", VIEWS)


def sides(width: int, seed: int, itself: bool = False, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(3, 5, width, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return left, left if itself else right


def seen(example: int, query: int, causal: bool = False, position_ids: Tensor | None = None) -> list[int]:
    """The real keys that a query sees, one by one."""
    keys = []
    for key in range(5):
        first, last = sorted((key, query))
        steps = [] if position_ids is None else pairwise(position_ids[example, first : last + 1].tolist())
        if MASK[example, key] and not (causal and key > query) and all(b == a + 1 for a, b in steps):
            keys.append(key)
    return keys


def law(left: Tensor, right: Tensor, query: int, keys: list[int]) -> list[Tensor]:
    scores = [torch.dot(left[query], right[key]) / math.sqrt(left.shape[-1]) for key in keys]
    total = sum(score.exp() for score in scores)
    return [score.exp() / total for score in scores]


def by_loops(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], heads: int, **view: Any) -> Tensor:
    sums = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
    for example, query in MASK.nonzero().tolist():
        keys = seen(example, query, **view)
        for head in range(heads):
            q, p = (
                law(*(side[example].chunk(heads, dim=-1)[head] for side in pair), query, keys)
                for pair in (student, teacher)
            )
            sums[example] = sums[example] + sum(a * (a / b).log() for a, b in zip(p, q, strict=True)) / heads
    return torch.stack(sums)


def leaves(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    left = pair[0].clone().requires_grad_()
    return left, left if pair[1] is pair[0] else pair[1].clone().requires_grad_()


def gradients(sums: Tensor, pair: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Of the sums with unequal weights, so that each example's own upstream gradient matters."""
    weights = torch.tensor([1.0, -2.0, 0.5], dtype=sums.dtype)
    return list(torch.autograd.grad((weights * sums).sum(), list(dict.fromkeys(pair))))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# ---- values and gradients ----


@each_view
@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("heads", [1, 2])
def test_equals_the_loops(view: str, itself: bool, heads: int) -> None:
    student, teacher = leaves(sides(4, 1, itself)), sides(6, 2, itself)
    expected = by_loops(student, teacher, heads, **VIEWS[view])
    found = relation_kl(student, teacher, heads=heads, mask=MASK, **VIEWS[view])
    assert expected.min() > 0.01
    close(found, expected)
    for mine, theirs in zip(gradients(found, student), gradients(expected, student), strict=True):
        close(mine, theirs)
        assert not mine[~MASK.bool()].any()


@each_view
@pytest.mark.parametrize("entries", [1, 4, 12, 25, 60, 100, 149])
def test_the_size_of_blocks_does_not_matter(view: str, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = leaves(sides(6, 1)), sides(12, 2)
    whole = relation_kl(student, teacher, heads=3, mask=MASK, **VIEWS[view])
    monkeypatch.setattr(relations, "CPU_BLOCK", entries)
    parted = relation_kl(student, teacher, heads=3, mask=MASK, **VIEWS[view])
    close(parted, whole)
    for mine, theirs in zip(gradients(parted, student), gradients(whole, student), strict=True):
        close(mine, theirs)


@pytest.mark.parametrize("entries", [1, 7, 20, 25, 50, 75, 76, 150, 1000])
def test_blocks_cover_everything_once(entries: int) -> None:
    covered = torch.zeros(3, 4, 5, dtype=torch.long)
    for block in relations._blocks(3, 5, 4, entries):
        part = covered[block.examples, block.heads, block.queries]
        part += 1
        assert part.numel() * 5 <= max(entries, 5)
    assert (covered == 1).all()


@each_view
@pytest.mark.parametrize("itself", [True, False])
def test_the_gradient_is_that_of_the_value(view: str, itself: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "CPU_BLOCK", 60)
    student, teacher = leaves(sides(4, 1)), sides(6, 2, itself)

    def sums(left: Tensor, right: Tensor) -> Tensor:
        pair = (left, left) if itself else (left, right)
        return relation_kl(pair, teacher, heads=2, mask=MASK, **VIEWS[view])

    inputs = (student[0], student[1].detach() if itself else student[1])
    assert torch.autograd.gradcheck(sums, inputs, fast_mode=True)


def test_one_side_may_be_frozen() -> None:
    student, teacher = sides(4, 1), sides(6, 2)
    both = leaves(student)
    expected = gradients(relation_kl(both, teacher, heads=2, mask=MASK), both)
    for side in (0, 1):
        pair = [tensor.clone() for tensor in student]
        pair[side].requires_grad_()
        relation_kl((pair[0], pair[1]), teacher, heads=2, mask=MASK).backward(torch.tensor([1.0, -2.0, 0.5]))
        close(pair[side].grad, expected[side])
        assert pair[1 - side].grad is None


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = leaves(sides(4, 1)), leaves(sides(6, 2))
    relation_kl(student, teacher, heads=2, mask=MASK).sum().backward()
    assert [tensor.grad for tensor in teacher] == [None, None]


def test_it_is_differentiated_once() -> None:
    student = leaves(sides(4, 1))
    found = relation_kl(student, sides(6, 2), heads=2, mask=MASK).square().sum()
    (gradient,) = torch.autograd.grad(found, student[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# ---- padding and degenerate rows ----


@pytest.mark.parametrize("value", [1e4, math.inf, -math.inf, math.nan])
def test_padding_may_hold_anything(value: float) -> None:
    student, teacher = sides(4, 1), sides(6, 2)
    filled = [
        tuple(side.masked_fill(~MASK.bool().unsqueeze(-1), value) for side in pair) for pair in (student, teacher)
    ]
    plain, other = leaves(student), leaves(filled[0])
    expected, found = (
        relation_kl(pair, theirs, heads=2, mask=MASK) for pair, theirs in ((plain, teacher), (other, filled[1]))
    )
    assert torch.equal(found, expected)
    for mine, theirs in zip(gradients(found, other), gradients(expected, plain), strict=True):
        assert torch.equal(mine, theirs)


@each_view
def test_a_row_without_text_is_zero(view: str) -> None:
    student, teacher = leaves(sides(4, 1)), sides(6, 2)
    mask = MASK.clone()
    mask[1] = 0
    found = relation_kl(student, teacher, heads=2, mask=mask, **VIEWS[view])
    assert found[1] == 0
    for gradient in gradients(found, student):
        assert torch.isfinite(gradient).all()
        assert not gradient[1].any()


def test_a_model_is_at_no_distance_from_itself() -> None:
    teacher = sides(4, 1)
    student = leaves(teacher)
    found = relation_kl(student, teacher, heads=2, mask=MASK)
    assert not found.any()
    for gradient in gradients(found, student):
        assert not gradient.any()


# ---- precision ----


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("teacher_dtype", [torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype, teacher_dtype: torch.dtype) -> None:
    student, teacher = leaves(sides(4, 1, dtype=dtype)), sides(6, 2, dtype=teacher_dtype)
    found = relation_kl(student, teacher, heads=2, mask=MASK)
    assert found.dtype == torch.float32
    expected = relation_kl(
        (student[0].double(), student[1].double()), (teacher[0].double(), teacher[1].double()), heads=2, mask=MASK
    )
    close(found.double(), expected, 1e-5)
    assert all(gradient.dtype == dtype for gradient in gradients(found, student))


def test_the_wider_dtype_wins() -> None:
    found = relation_kl(leaves(sides(4, 1)), sides(6, 2, dtype=torch.float32), heads=2, mask=MASK)
    assert found.dtype == torch.float64


# ---- what is seen ----


@each_view
def test_visible_pairs_are_those_of_the_loops(view: str) -> None:
    given = VIEWS[view]
    visible = visible_pairs(MASK, given.get("causal", False), given.get("position_ids"))
    assert visible.dtype == torch.bool
    for example in range(3):
        for query in range(5):
            keys = seen(example, query, **given) if MASK[example, query] else []
            assert visible[example, query].nonzero().flatten().tolist() == keys, (example, query)


def test_one_row_of_positions_serves_all_examples() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    assert torch.equal(visible_pairs(MASK, True, positions), visible_pairs(MASK, True, positions.expand(3, -1)))


@pytest.mark.parametrize("shape", [(3, 4), (2, 5), (5,), (3, 3, 5)])
def test_positions_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"position_ids have the shape \(.*\), the text \(3, 5\)"):
        visible_pairs(MASK, False, torch.zeros(shape, dtype=torch.long))


# ---- cost ----


class Watch(TorchDispatchMode):
    """Counts operators by name, and the tensors that they gave by size."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.sizes: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names[func.overloadpacket.__name__] += 1
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.sizes[result.numel()] += 1
        return result


def test_only_blocks_are_ever_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 x 24 positions and 4 heads in blocks of 500 entries: nothing larger than the block and the projections."""
    monkeypatch.setattr(relations, "CPU_BLOCK", 500)
    student, teacher = (torch.randn(1, 24, 8) for _ in range(2))
    student.requires_grad_()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Watch() as watch:
        relation_kl((student, student), (teacher, teacher), heads=4, mask=torch.ones(1, 24)).sum().backward()
    assert max(watch.sizes) <= 24 * 24
    assert kept == [student.numel()]


def test_no_gradient_is_formed_that_nobody_wants() -> None:
    student, teacher = sides(4, 1), sides(6, 2)
    with Watch() as watch:
        relation_kl(student, teacher, heads=2, mask=MASK)
    assert watch.names["bmm"] == 2
    with Watch() as watch:
        relation_kl(leaves(student), teacher, heads=2, mask=MASK)
    assert watch.names["bmm"] == 4


@each_view
def test_nothing_waits_for_the_device(view: str) -> None:
    student, teacher = leaves(sides(4, 1)), sides(6, 2)
    with Watch() as watch:
        relation_kl(student, teacher, heads=2, mask=MASK, **VIEWS[view]).sum().backward()
    assert watch.names.keys() & {"_local_scalar_dense", "is_nonzero", "nonzero", "lift_fresh"} == set()
    assert watch.names.total() < 150


# ---- scores that are there already ----


def scores(seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """`[3 examples, 2 heads, 5 queries, 5 keys]`."""
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(3, 2, 5, 5, generator=generator, dtype=torch.float64)).to(dtype)


def seeing(view: str) -> dict[str, Any]:
    return {"causal": False, **VIEWS[view]}


def scores_by_loops(student: Tensor, teacher: Tensor, **view: Any) -> Tensor:
    values = torch.zeros(3, 5, dtype=torch.float64)
    for example, query in MASK.nonzero().tolist():
        keys = seen(example, query, **view)
        for head in range(2):
            q, p = (each[example, head, query, keys].double() for each in (student, teacher))
            q, p = q.exp() / q.exp().sum(), p.exp() / p.exp().sum()
            values[example, query] += (p * (p / q).log()).sum() / 2
    return values


@each_view
@pytest.mark.parametrize("entries", [1, 10, 50, 2**19])
def test_scores_equal_the_loops(view: str, entries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "CPU_BLOCK", entries)
    student, teacher, visible = scores(1).requires_grad_(), scores(2), visible_pairs(MASK, **seeing(view))
    found = scores_kl(student, teacher, visible)
    expected = scores_by_loops(student.detach(), teacher, **VIEWS[view])
    assert expected.max() > 0.1
    close(found.detach(), expected)
    assert torch.autograd.gradcheck(lambda given: scores_kl(given, teacher, visible), student, fast_mode=True)


def test_scores_of_keys_that_are_not_seen_do_not_matter() -> None:
    visible = visible_pairs(MASK, causal=True)
    student, teacher = scores(1), scores(2)
    expected = scores_kl(student, teacher, visible)
    hidden = ~visible[:, None].expand_as(student)
    for value in (math.nan, math.inf, 1e30):
        strange = student.masked_fill(hidden, value).requires_grad_()
        found = scores_kl(strange, teacher.masked_fill(hidden, value), visible)
        close(found.detach(), expected, 0)
        found.sum().backward()
        assert strange.grad is not None
        assert not strange.grad[hidden].any()


def test_scores_of_low_precision_are_compared_in_float32() -> None:
    visible = visible_pairs(MASK, causal=False)
    student, teacher = (scores(seed, torch.bfloat16) for seed in (1, 2))
    ours = student.clone().requires_grad_()
    found = scores_kl(ours, teacher, visible)
    assert found.dtype == torch.float32
    close(found.detach().double(), scores_by_loops(student, teacher), 1e-5)
    found.sum().backward()
    assert ours.grad is not None
    assert ours.grad.dtype == torch.bfloat16


def test_scores_without_a_gradient_leave_nothing_behind() -> None:
    found = scores_kl(scores(1), scores(2), visible_pairs(MASK, causal=False))
    assert found.grad_fn is None


def test_of_scores_one_tensor_of_their_size_is_made_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else every layer of a long text would hold several."""
    monkeypatch.setattr(relations, "CPU_BLOCK", 500)
    student, teacher = (torch.randn(1, 4, 24, 24) for _ in range(2))
    student.requires_grad_()
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    visible = visible_pairs(torch.ones(1, 24), causal=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Watch() as watch:
        scores_kl(student, teacher, visible)
    assert kept == [student.numel()]
    assert watch.sizes[student.numel()] == 1
    assert all(size <= 24 * 24 for size in watch.sizes if size != student.numel())
