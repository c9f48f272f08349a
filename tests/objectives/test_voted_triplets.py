"""Triplets on whose order several teachers vote."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import DistillationTrainer, Labels, VotedTriplets
from hf_distill.activations import Activations, EnsembleActivations, Signal
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.member_logits import Combining
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests import tiny
from tests.shapes import shape


def bound(widths: tuple[int, ...], depths: tuple[int, ...] | None = None, **settings: Any) -> VotedTriplets:
    """An objective on teachers of these widths, and of two layers unless other depths are given."""
    sizes = zip(depths or (2,) * len(widths), widths, strict=True)
    pairs = {f"t{i}": Pair.from_shapes(shape(), shape(*size), TASKS["single_label"]) for i, size in enumerate(sizes)}
    objective = VotedTriplets(**settings)
    objective.bind(Pair.together(pairs, Combining(len(pairs))))
    return objective


def value(objective: VotedTriplets, student: Tensor, teachers: list[Tensor]) -> Tensor:
    """Texts of one token each."""
    mask = torch.ones(len(student), 1, dtype=torch.long)
    shown = {f"t{i}": Activations(mask=mask, hidden={2: each.unsqueeze(1)}) for i, each in enumerate(teachers)}
    ours = Activations(mask=mask, hidden={2: student.unsqueeze(1)})
    found = objective(ours, EnsembleActivations(shown), {"attention_mask": mask})
    assert isinstance(found, Tensor)
    return found


def by_loops(student: Tensor, teachers: list[Tensor], weights: list[float], margin: float) -> float:
    def apart(vectors: Tensor, a: int, b: int) -> float:
        left, right = (vectors[i] / vectors[i].norm() for i in (a, b))
        return float((left - right).square().sum())

    hinges = []
    for anchor in range(len(student)):
        for j, k in itertools.combinations([i for i in range(len(student)) if i != anchor], 2):
            votes = 0.0
            for vectors, weight in zip(teachers, weights, strict=True):
                difference = apart(vectors, anchor, k) - apart(vectors, anchor, j)
                votes += weight * ((difference > 0) - (difference < 0))
            if votes:
                near, far = (j, k) if votes > 0 else (k, j)
                hinges.append(max(0.0, apart(student, anchor, near) - apart(student, anchor, far) + margin))
    return sum(hinges) / len(hinges)


@pytest.mark.parametrize("weights", [None, [1.0, 1.0, 3.0], [2.0, 1.0, 1.0]])
def test_the_loss_by_loops(weights: list[float] | None) -> None:
    generator = torch.Generator().manual_seed(2)
    student = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    teachers = [torch.randn(6, width, generator=generator, dtype=torch.float64) for width in (2, 4, 8)]
    found = value(bound((2, 4, 8), weights=weights, margin=0.3), student, teachers)
    assert float(found) == pytest.approx(by_loops(student, teachers, weights or [1.0] * 3, 0.3), rel=1e-12)


def test_of_many_texts_some_triplets_are_drawn() -> None:
    generator = torch.Generator().manual_seed(2)
    student, teacher = (torch.randn(12, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    objective = bound((4,), max_triplets=20)
    anchors, first, second = objective._triplets(student)
    assert anchors.shape == (12, 20)
    assert (first < second).all()
    assert ((first != anchors) & (second != anchors) & (second < 12) & (first >= 0)).all()
    drawn = torch.stack([value(objective, student, [teacher]) for _ in range(400)])
    every = value(bound((4,)), student, [teacher])
    assert len(drawn.unique()) > 300
    assert float(drawn.mean()) == pytest.approx(float(every), rel=0.02)


def test_the_last_layer_of_each_teacher_is_read() -> None:
    objective = bound((4, 8), (2, 5))
    needs = objective.needs()
    assert needs.student == {Signal("hidden", 2)}
    assert needs.teacher == {Signal("hidden", 2, member="t0"), Signal("hidden", 5, member="t1")}


def test_a_batch_of_two_counts_nothing() -> None:
    student = torch.randn(2, 4, requires_grad=True)
    objective = bound((4,))
    loss = value(objective, student, [torch.randn(2, 4)])
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()
    assert objective.count({"attention_mask": torch.ones(2, 1)}, TASKS["single_label"]) == 0
    assert objective.count({"attention_mask": torch.ones(3, 1)}, TASKS["single_label"]) == 1
    with pytest.raises(DistillationError, match=r"voted_triplets.*2"):
        DistillationTrainer(
            model=tiny.model("single_label", seed=4),
            teacher=tiny.model("single_label", seed=3),
            objectives=VotedTriplets() + Labels(),
            args=tiny.arguments(per_device_train_batch_size=2),
            train_dataset=tiny.rows("single_label", 8),
            data_collator=tiny.Pad(),
        )


def test_tied_votes_drop_and_are_told() -> None:
    student = torch.randn(3, 4, requires_grad=True)
    objective = bound((4, 4), normalize=False)
    teacher = torch.tensor([[0.0], [1.0], [3.0]]).expand(3, 4)
    loss = value(objective, student, [teacher, torch.tensor([[0.0], [3.0], [1.0]]).expand(3, 4)])
    loss.backward()
    assert loss == 0
    assert student.grad is not None
    assert not student.grad.any()
    assert objective.remarks() == ["more than half of the triplets drop, as the teachers' votes are tied."]


def test_repeated_texts_are_as_near_as_each_other_whatever_their_last_digits() -> None:
    """Two copies of a text that were computed in other micro-batches, as on other processes."""
    generator = torch.Generator().manual_seed(3)
    student, teacher = (torch.randn(6, 8, generator=generator, dtype=torch.float32) for _ in range(2))
    student[4], teacher[4] = student[1], teacher[1]
    expected = by_loops(student.double(), [teacher.double()], [1.0], 0.2)
    for last_digit in (0.0, 1.2e-7, -1.2e-7):
        student[4], teacher[4] = student[1] * (1 + last_digit), teacher[1] * (1 + last_digit)
        noise = torch.zeros(8).index_fill_(0, torch.tensor([0, 3]), last_digit)
        found = value(bound((8,)), student * (1 + noise), [teacher * (1 - noise)])
        assert float(found) == pytest.approx(expected, rel=1e-6), last_digit


def test_what_is_refused() -> None:
    for settings, message in (
        ({"margin": -0.1}, "margin is -0.1"),
        ({"normalize": 1}, "normalize is 1"),
        ({"max_triplets": 0}, "max_triplets is 0"),
        ({"weights": "label_ce"}, "weights is 'label_ce'; it must be a list"),
        ({"weights": [1.0, -2.0]}, "weights is -2.0"),
        ({"pool": "sum"}, "pool is 'sum'"),
    ):
        with pytest.raises(DistillationError, match=message):
            VotedTriplets(**settings)
    with pytest.raises(IncompatiblePair, match="1 weights for 2 teachers"):
        bound((4, 4), weights=[1.0])
    causal = Pair.from_shapes(shape(causal=True), shape(causal=True), TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match=r"the student is causal.*pool='last_token' or 'mean'"):
        VotedTriplets(pool="first_token").bind(causal)


def test_what_is_drawn_follows_from_the_batches_before() -> None:
    """Not from the generator, which processes may have used differently: with `gather` all must draw the same."""
    vectors = torch.randn(12, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    one, other = (bound((4,), max_triplets=20) for _ in range(2))
    for step in range(3):
        first = one._triplets(vectors)
        torch.manual_seed(step)
        assert all(torch.equal(*each) for each in zip(first, other._triplets(vectors), strict=True))
    resumed = bound((4,), max_triplets=20)
    resumed.load_state_dict(one.state_dict())
    assert torch.equal(resumed._triplets(vectors)[1], one._triplets(vectors)[1])
    one.eval()
    assert torch.equal(one._triplets(vectors)[1], one._triplets(vectors)[1]), "an evaluation draws nothing anew"


def test_refuses_a_teacher_of_other_positions() -> None:
    objective = bound((4,))
    ours, theirs = (
        Activations(mask=torch.ones(4, length, dtype=torch.long), hidden={2: torch.zeros(4, length, 4)})
        for length in (3, 5)
    )
    with pytest.raises(IncompatiblePair, match=r"voted_triplets: the student shows 4 texts of 3 positions, .* of 5"):
        objective(ours, EnsembleActivations({"t0": theirs}), {"attention_mask": ours.mask})
