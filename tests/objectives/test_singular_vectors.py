"""Singular vectors of texts: values and gradients against torch's own decomposition, ties, signs; and what is built of
them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.head_graphs import HeadGraphs
from hf_distill.objectives.singular_vectors import aligned, leading
from hf_distill.runs.stages import hand_on
from hf_distill.tasks import TASKS
from tests.shapes import shape

SIZES = pytest.mark.parametrize(("length", "width"), [(3, 5), (5, 3), (4, 4)])
SIDES = pytest.mark.parametrize("side", ["right", "left"])


def matrix(length: int, width: int, seed: int = 0) -> Tensor:
    return torch.randn(2, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_values(values: list[float], seed: int = 0) -> Tensor:
    """A matrix `[1, 6, 4]` of these singular values."""
    u, _, v = torch.linalg.svd(matrix(6, 4, seed)[:1], full_matrices=False)
    return u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v


def reference(a: Tensor, side: str, towards: Tensor | None = None) -> Tensor:
    """By torch, the signs turned as is said of `leading`; rows are vectors."""
    u, _, v = torch.linalg.svd(a, full_matrices=False)
    ends = a.sum(1, keepdim=True) if towards is None else towards
    signs = torch.where((v * ends).sum(-1, keepdim=True) < 0, -1.0, 1.0)
    return signs * (v if side == "right" else u.mT)


# ---- values and gradients ----


@SIZES
@SIDES
def test_values_and_gradients_are_those_of_a_whole_decomposition(length: int, width: int, side: str) -> None:
    a = matrix(length, width)
    upstream = torch.randn(2, 2, width if side == "right" else length, dtype=torch.float64)
    leaves = [a.clone().requires_grad_() for _ in range(2)]
    found = leading(leaves[0], 2, side)
    expected = reference(leaves[1], side)[:, :2]
    torch.testing.assert_close(found.vectors, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.values, torch.linalg.svdvals(a)[:, :2], rtol=0, atol=1e-12)
    (found.vectors * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=1e-10)
    assert found.usable.all()
    assert found.safe.all()


@SIDES
def test_rows_of_zeros_change_nothing(side: str) -> None:
    a = matrix(3, 5)
    long = torch.cat([torch.zeros(2, 2, 5, dtype=torch.float64), a, torch.zeros(2, 3, 5, dtype=torch.float64)], 1)
    leaves = [a.clone().requires_grad_(), long.clone().requires_grad_()]
    found = [leading(leaf, 2, side) for leaf in leaves]
    longer = found[1].vectors if side == "right" else found[1].vectors[..., 2:5]
    torch.testing.assert_close(longer, found[0].vectors, rtol=0, atol=1e-12)
    for vectors in (found[0].vectors, longer):
        (vectors.cumsum(-1) ** 2).sum().backward()
    torch.testing.assert_close(leaves[1].grad[:, 2:5], leaves[0].grad, rtol=0, atol=1e-10)


@SIDES
def test_a_tie_among_vectors_that_are_not_used_does_not_matter(side: str) -> None:
    """The derivative of the whole decomposition is NaN here."""
    a = with_values([3.0, 2.0, 1.0, 1.0]).requires_grad_()
    found = leading(a, 2, side)
    assert found.safe.all()
    weights = torch.linspace(0.5, 2.0, found.vectors.shape[-1], dtype=torch.float64)

    def first_two(given: Tensor) -> Tensor:
        return leading(given, 2, side).vectors * weights

    assert torch.autograd.gradcheck(first_two, (a,), fast_mode=True)


@SIDES
def test_a_tie_of_a_used_vector_takes_its_gradient_away(side: str) -> None:
    a = with_values([3.0, 2.0, 2.0 - 1e-4, 0.5]).requires_grad_()
    found = leading(a, 4, side)
    assert found.safe.tolist() == [[True, False, False, True]]
    for j, has_gradient in enumerate(found.safe[0].tolist()):
        (gradient,) = torch.autograd.grad(found.vectors[0, j, :2].sum(), a, retain_graph=True)
        assert torch.isfinite(gradient).all()
        assert bool(gradient.any()) == has_gradient


@SIDES
def test_directions_without_weight_are_no_vectors(side: str) -> None:
    """Equal tokens: what a decomposition gives beyond the first vector is left to chance."""
    a = torch.ones(1, 3, 4, dtype=torch.float64).requires_grad_()
    found = leading(a, 3, side)
    assert found.usable.tolist() == [[True, False, False]]
    assert not found.vectors[0, 1:].any()
    found.vectors.sum().backward()
    assert torch.isfinite(a.grad).all()
    nothing = leading(torch.zeros(1, 3, 4), 2, side)
    assert not nothing.vectors.any()
    assert not nothing.usable.any()


@SIDES
def test_what_is_not_finite_shows(side: str) -> None:
    a = matrix(3, 4)
    for value in (float("nan"), float("inf")):
        spoilt = a.clone()
        spoilt[1, 0, 0] = value
        found = leading(spoilt, 2, side).vectors
        assert found[1].isnan().all()
        assert torch.equal(found[0], leading(a, 2, side).vectors[0])


@SIDES
def test_the_dtype_is_kept(side: str) -> None:
    found = leading(matrix(3, 4).float(), 2, side)
    assert found.vectors.dtype == found.values.dtype == torch.float32


def test_the_candidate_most_like_the_teachers_is_taken() -> None:
    """The student's third direction is the teacher's first, the other way round."""
    basis = torch.linalg.qr(matrix(4, 4)[0])[0]
    theirs = leading((basis[:3].T * torch.tensor([3.0, 2.0, 1.0])).T.unsqueeze(0), 1, "right")
    student = (basis[[1, 2, 0]].T * torch.tensor([3.0, 2.0, -1.0])).T.unsqueeze(0)
    vectors, unsafe = aligned(leading(student, 3, "right"), theirs)
    torch.testing.assert_close(vectors, theirs.vectors, rtol=0, atol=1e-12)
    assert not unsafe.any()
    fewer, _ = aligned(leading(student, 2, "right"), theirs)
    assert float((fewer * theirs.vectors).sum().abs()) < 1e-12


# ---- the objectives ----

MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 0], [1, 1, 1, 1, 0]])


def bound(name: str, **settings: Any) -> Objective:
    torch.manual_seed(5)
    objective = objectives.make(name, settings)
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS["single_label"]))
    return objective.double()


def states(seed: int, examples: int = 3) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {i: torch.randn(examples, 5, 4, generator=generator, dtype=torch.float64) for i in range(3)}


def evaluated(
    objective: Objective, student: dict[int, Tensor], teacher: dict[int, Tensor], mask: Tensor = MASK
) -> tuple[Tensor, int]:
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    value = objective(Activations(mask=mask, hidden=student), Activations(mask=mask, hidden=teacher), batch)
    return value, int(objective.count(batch, objective.pair.task))


@SIDES
@pytest.mark.parametrize("center", [False, True])
def test_kernels_between_layers_by_loops(side: str, center: bool) -> None:
    student, teacher, k = states(0), states(1), 2
    extra = 0 if center else 1  # three centred tokens have two directions
    expected = 0.0
    for example, mask in enumerate(MASK.bool()):
        found: list[list[Tensor]] = []
        for layer in range(3):
            given = [each[layer][example, mask] for each in (student, teacher)]
            rows = [each - each.mean(0) if center else each for each in given]
            values = torch.linalg.svdvals(rows[1])[:k]
            sums = given[1].sum(0, keepdim=True).unsqueeze(0)
            ours, theirs = (reference(each.unsqueeze(0), side, sums)[0] for each in rows)
            theirs, candidates = theirs[:k], ours[: k + extra]
            taken = []
            for vector in theirs:
                cosines = candidates @ vector
                best = int(cosines.abs().argmax())
                taken.append(candidates[best] * cosines[best].sign())
            weights = values / values.norm()
            found.append([torch.stack(taken).T * weights, theirs.T * weights])
        for before, after in pairwise(found):
            for j in range(k):
                kernels = [
                    torch.exp(-((y[:, j].unsqueeze(1) - x[:, j].unsqueeze(0)) ** 2) / 5.0)
                    for x, y in zip(before, after, strict=True)
                ]
                expected += float(((kernels[0] - kernels[1]) ** 2).sum())
    objective = bound("svd_kd", side=side, k=k, extra=extra, width=5.0, center=center)
    value, count = evaluated(objective, student, teacher)
    assert float(value) == pytest.approx(expected, rel=1e-9)
    assert count == 3
    assert objective.detached == 0
    assert objective.remarks() == []


def test_vectors_without_a_gradient_are_counted_and_told() -> None:
    tie = torch.cat([with_values([2.0, 2.0, 1.0, 0.5])] * 3)
    mask = torch.ones(3, 6, dtype=torch.long)
    teacher = {i: torch.cat([matrix(6, 4, seed=i)[:1]] * 3) for i in range(3)}
    leaves = {i: tie.clone().requires_grad_() for i in range(3)}
    objective = bound("svd_kd", extra=0)
    value, _ = evaluated(objective, leaves, teacher, mask)
    value.backward()
    assert not any(leaf.grad.any() for leaf in leaves.values())
    assert objective.detached == 9
    assert "within 1e-4 of each other" in objective.remarks()[0]


@SIDES
def test_one_token_has_one_direction(side: str) -> None:
    mask = torch.zeros_like(MASK)
    mask[:, 2] = 1
    value, count = evaluated(bound("svd_kd", side=side, k=3), states(0), states(1), mask)
    assert count == 3
    assert bool(value > 1e-6) == (side == "right")


def test_a_teacher_turned_round_is_the_same_teacher() -> None:
    """-A has the singular vectors of A; the sum of its rows turns their sign, in all layers alike."""
    for name in ("svd_kd", "mhgd"):
        student, teacher, objective = states(0), states(1), bound(name)
        value = evaluated(objective, student, teacher)[0]
        turned = evaluated(objective, student, {i: -x for i, x in teacher.items()})[0]
        assert float(turned) == pytest.approx(float(value), rel=1e-12)


# ---- graphs ----


def test_divergences_of_graphs_by_loops() -> None:
    student, teacher = states(0), states(1)
    objective = bound("mhgd", heads=2, vector="mean")
    pooled = [
        {i: torch.stack([x[b, mask].mean(0) for b, mask in enumerate(MASK.bool())]) for i, x in side.items()}
        for side in (student, teacher)
    ]
    divergences = []
    for layer, heads in enumerate(objective.attention):
        for keys, queries in zip(heads.keys, heads.queries, strict=True):
            laws = [
                torch.log_softmax(torch.tanh((v[layer + 1] @ keys.T) @ (v[layer] @ queries.T).T), -1) for v in pooled
            ]
            divergences += [(laws[i].exp() * (laws[i] - laws[1 - i])).sum() for i in (0, 1)]
    value, count = evaluated(objective, student, teacher)
    assert float(value) == pytest.approx(float(sum(divergences[::2])), rel=1e-12)
    assert count == 1
    other = bound("mhgd", heads=2, vector="mean", form="teacher_first")
    # Over two heads and three texts; two pairs of layers are added.
    assert float(evaluated(other, student, teacher)[0]) == pytest.approx(float(sum(divergences[1::2])) / 6, rel=1e-12)


@pytest.mark.parametrize("name", ["mhgd", "mhgd_estimator"])
def test_a_single_text_has_no_graph(name: str) -> None:
    objective = bound(name)
    leaves = {i: x.requires_grad_() for i, x in states(0, 1).items()}
    value, count = evaluated(objective, leaves, states(1, 1), MASK[:1])
    value.backward()
    assert (float(value.detach()), count) == (0.0, 0)
    read = leaves.values() if name == "mhgd" else objective.parameters()
    assert all(each.grad is not None and not each.grad.any() for each in read)
    assert "batches of fewer than 2 examples" in " ".join(objective.remarks())


def test_heads_are_handed_on() -> None:
    first, then = bound("mhgd_estimator"), bound("mhgd")
    evaluated(then, states(0), states(1))
    assert "attention heads are random" in " ".join(then.remarks())
    learned = {f"graph.{name}": value for name, value in first.state_dict().items()}
    again = bound("mhgd")
    with torch.no_grad():
        first.attention[0].keys.add_(1.0)
    hand_on(learned, nn.ModuleDict({"graph": again}), "stage 'distil'")
    for ours, theirs in zip(again.attention, first.attention, strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.queries, theirs.queries)
    assert not list(again.parameters())
    evaluated(again, states(0), states(1))
    assert again.remarks() == []
    resumed = bound("mhgd")
    resumed.load_state_dict(then.state_dict())
    evaluated(resumed, states(0), states(1))
    assert "attention heads are random" in " ".join(resumed.remarks()), "what is loaded may be random, too"
    with pytest.raises(IncompatiblePair, match=r"'graph' learned .*give it another name"):
        hand_on(learned, nn.ModuleDict({"graph": bound("mhgd", heads=2)}), "stage 'distil'")


def test_the_estimator_learns_and_reads_the_teacher_alone() -> None:
    objective = bound("mhgd_estimator", heads=2)
    needs = objective.needs()
    assert not needs.student
    assert sorted(map(str, needs.teacher)) == ["hidden[0]", "hidden[1]", "hidden[2]"]
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.02)
    values = []
    for _ in range(60):
        value, _ = evaluated(objective, {}, states(1))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert 0 < values[-1] < 0.2 * values[0]


@pytest.mark.parametrize("name", ["mhgd", "mhgd_estimator"])
def test_two_processes_make_one_graph(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean of both processes' gradients, as an engine takes it, is that of one process with all texts; the trainer
    divides by the two batches that were counted and multiplies by the two processes.
    """
    student, teacher, mask = states(0, 4), states(1, 4), MASK[[0, 1, 2, 0]]
    whole = {i: x.clone().requires_grad_() for i, x in student.items()}
    single = bound(name)
    value, _ = evaluated(single, whole, teacher, mask)
    value.backward()
    halves = [slice(0, 2), slice(2, 4)]
    shown = [[{i: x[half] for i, x in side.items()} for side in (student, teacher)] for half in halves]
    seen: list[tuple[Tensor, Tensor]] = []

    def noted(*own: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((own[0].detach(), own[1].detach()))
        return own[0], own[1]

    module = f"hf_distill.objectives.relation.{name}.gathered"
    monkeypatch.setattr(HeadGraphs, "processes", 2)
    monkeypatch.setattr(module, noted)
    for rank, half in enumerate(halves):
        evaluated(bound(name, gather=True), *shown[rank], mask[half])
    means = []
    for rank, half in enumerate(halves):

        def exchanged(*own: Tensor, rank: int = rank) -> tuple[Tensor, Tensor]:
            parts = [own if i == rank else seen[i] for i in (0, 1)]
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

        monkeypatch.setattr(module, exchanged)
        leaves = {i: x.clone().requires_grad_() for i, x in shown[rank][0].items()}
        objective = bound(name, gather=True)
        found, count = evaluated(objective, leaves, shown[rank][1], mask[half])
        found.backward()
        assert float(found.detach()) == pytest.approx(float(value.detach()), rel=1e-12)
        assert count == 1
        if name == "mhgd":
            for layer, leaf in leaves.items():
                torch.testing.assert_close(leaf.grad / 2, whole[layer].grad[half], rtol=0, atol=1e-12)
        means.append([parameter.grad for parameter in objective.parameters()])
    for gradients in zip(*means, [parameter.grad for parameter in single.parameters()], strict=True):
        torch.testing.assert_close((gradients[0] + gradients[1]) / 2, gradients[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["mhgd", "mhgd_estimator"])
def test_warns_of_a_text_in_the_graph_without_a_token(name: str) -> None:
    objective = bound(name)
    mask = MASK.clone()
    mask[1] = 0
    evaluated(objective, states(0), states(1), mask)
    assert "the vector 0" in " ".join(objective.remarks())
