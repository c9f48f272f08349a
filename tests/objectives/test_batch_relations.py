"""Relations over the batch: what they pool, how they count, what they refuse, and what they warn of."""

from __future__ import annotations

import itertools
import logging
import math
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from hf_distill import DistillationTrainer, IncompatiblePair, Labels, objectives
from hf_distill.activations import Activations
from hf_distill.errors import DistillationError
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.batch_relations import BatchRelation, distances, off_diagonal
from hf_distill.objectives.contrast import fingerprints
from hf_distill.pooling import POOLS, pooled
from hf_distill.tasks import TASKS
from tests import tiny
from tests.shapes import shape

OVER_TEXTS = [
    name
    for name in objectives.names()
    if objectives.get(name).relates_batch and issubclass(objectives.get(name), BatchRelation)
]


def bound(name: str, widths: tuple[int, int] = (4, 6), **settings: Any) -> Objective:
    objective = objectives.make(name, settings)
    objective.bind(Pair.from_shapes(shape(2, widths[0]), shape(2, widths[1]), TASKS["single_label"]))
    return objective


def value(objective: Objective, student: Tensor, teacher: Tensor, **batch: Tensor) -> Tensor:
    """Of one vector a text."""
    mask = torch.ones(len(student), 1, dtype=torch.long)
    shown = [Activations(mask=mask, hidden={2: each.unsqueeze(1)}) for each in (student, teacher)]
    return objective(shown[0], shown[1], {"attention_mask": mask, **batch})


def drawn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- vectors ----


@pytest.mark.parametrize("how", POOLS)
def test_pools_the_real_tokens_on_either_side_of_padding(how: str) -> None:
    states = drawn(3, 5, 2)
    real = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
    filled = torch.where(real.bool().unsqueeze(-1), states, math.nan).requires_grad_()
    found = pooled(filled, real, how)
    for vector, state, mask in zip(found, states, real.bool(), strict=True):
        tokens = state[mask]
        expected = {
            "mean": tokens.mean(0),
            "max": tokens.max(0).values,
            "first_token": tokens[0],
            "last_token": tokens[-1],
        }[how]
        torch.testing.assert_close(vector, expected)
    found.square().sum().backward()
    assert filled.grad is not None
    assert not filled.grad[real == 0].any()
    assert filled.grad[real == 1].any()


@pytest.mark.parametrize("how", POOLS)
def test_a_text_without_tokens_has_the_vector_zero(how: str) -> None:
    states = torch.full((1, 2, 3), math.nan, requires_grad=True)
    found = pooled(states, torch.zeros(1, 2, dtype=torch.long), how)
    found.sum().backward()
    assert not found.any()
    assert not states.grad.any()


def test_off_diagonal_keeps_the_order_of_rows() -> None:
    square = torch.arange(16).view(4, 4)
    expected = [[int(square[i, j]) for j in range(4) if j != i] for i in range(4)]
    assert off_diagonal(square).tolist() == expected


def test_distances_keep_their_digits_beside_a_large_offset() -> None:
    vectors = drawn(5, 8) * 0.01 + 15.0
    found, expected = distances(vectors.float()), distances(vectors)
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("name", OVER_TEXTS)
@pytest.mark.parametrize("side", ["student", "teacher"])
def test_refuses_to_pool_a_causal_model_at_its_first_token(name: str, side: str) -> None:
    sides = [shape(causal=side == each) for each in ("student", "teacher")]
    pair = Pair.from_shapes(*sides, TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match=rf"{name}: the {side} is causal.*pool='last_token'"):
        objectives.make(name, {"pool": "first_token"}).bind(pair)
    objectives.make(name, {"pool": "last_token"}).bind(pair)


@pytest.mark.parametrize("name", ["pkt", "similarity_preserving", "correlation_congruence", "similarity_distribution"])
def test_centering_takes_a_common_offset_away(name: str) -> None:
    student, teacher = drawn(6, 4), drawn(6, 6, seed=1)
    plain, centred = bound(name), bound(name, center=True)
    expected = value(centred, student, teacher)
    torch.testing.assert_close(value(centred, student + 50.0, teacher - 50.0), expected, rtol=1e-6, atol=1e-9)
    assert value(plain, student + 50.0, teacher - 50.0) < 0.1 * expected


# ---- counting and small batches ----

CENTRED = [name for name in OVER_TEXTS if "center" in objectives.make(name, {}).settings()]
WITH_SETTINGS: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in OVER_TEXTS]
WITH_SETTINGS += [(name, {"center": True}) for name in CENTRED]


def relates_one_fewer(name: str, settings: dict[str, Any]) -> bool:
    """Whether the formula can be evaluated on one text fewer than the smallest batch."""
    return objectives.make(name, settings).smallest_batch > 2 and name not in ("cka", "darkrank_soft")


@pytest.mark.parametrize(("name", "settings"), WITH_SETTINGS)
def test_a_batch_is_one_unit_and_a_small_one_is_none(name: str, settings: dict[str, Any]) -> None:
    objective = bound(name, **settings)
    for examples in range(1, objective.smallest_batch + 2):
        student = drawn(examples, 4).requires_grad_()
        batch = {"input_ids": torch.zeros(examples, 1, dtype=torch.long)}
        assert objective.count(batch, TASKS["single_label"]) == int(examples >= objective.smallest_batch)
        loss = value(objective, student, drawn(examples, 6, seed=1))
        loss.backward()
        assert student.grad is not None
        if examples < objective.smallest_batch:
            assert loss == 0
            assert not student.grad.any()
            assert all(parameter.grad is not None for parameter in objective.parameters())
        else:
            assert student.grad.any()


@pytest.mark.parametrize(("name", "settings"), [each for each in WITH_SETTINGS if relates_one_fewer(*each)])
def test_the_smallest_batch_is_the_smallest_with_a_gradient(name: str, settings: dict[str, Any]) -> None:
    """One text fewer, and the formula itself has no gradient."""
    objective = bound(name, **settings)
    examples = objective.smallest_batch - 1
    student = drawn(examples, 4).requires_grad_()
    objective.relation(student, drawn(examples, 6, seed=1), {}).backward()
    assert student.grad.abs().max() < 1e-9


def trainer(objective: Any, rows: int = 8, data: Any = None, **settings: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        objectives=objective,
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows("single_label", rows) if data is None else data,
        data_collator=tiny.Pad(),
    )


@pytest.mark.parametrize("name", OVER_TEXTS)
def test_refuses_batches_that_are_too_small(name: str) -> None:
    smallest = objectives.make(name, {}).smallest_batch
    words = rf"'{name}' relates .* per_device_train_batch_size makes it {smallest - 1}; it needs {smallest}"
    with pytest.raises(DistillationError, match=words):
        trainer(objectives.make(name, {}), per_device_train_batch_size=smallest - 1, gradient_accumulation_steps=8)
    trainer(objectives.make(name, {}), per_device_train_batch_size=smallest)


def test_refuses_a_budget_of_tokens_that_may_give_too_few() -> None:
    data = tiny.rows("single_label", 8, longest=12)
    longest = max(len(row["input_ids"]) for row in data)
    model, teacher = tiny.model("single_label"), tiny.model("single_label", seed=2)
    given = {"model": model, "teacher": teacher, "args": tiny.arguments(), "train_dataset": data}
    with pytest.raises(DistillationError, match="tokens_per_batch makes it 2; it needs 3"):
        DistillationTrainer(**given, objectives=objectives.PKT(), tokens_per_batch=3 * longest - 1)
    DistillationTrainer(**given, objectives=objectives.PKT(), tokens_per_batch=3 * longest)


def test_warns_of_batches_that_say_little(caplog: pytest.LogCaptureFixture) -> None:
    trainer(objectives.CRD(), per_device_train_batch_size=8)
    assert "'crd' relates the examples of a batch to each other; per_device_train_batch_size makes it 8; below 16" in (
        caplog.text
    )
    caplog.clear()
    trainer(objectives.CRD(), per_device_train_batch_size=16)
    assert "relates the examples" not in caplog.text


def test_a_short_last_batch_counts_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(
        1.0 * objectives.RKDDistance() + 0.0 * Labels(),
        rows=8,
        per_device_train_batch_size=3,
        max_steps=-1,
        num_train_epochs=2,
        logging_steps=1,
    )
    run.train()
    values = [row["objective/rkd_distance"] for row in run.state.log_history if "objective/rkd_distance" in row]
    assert [each == 0 for each in values] == [False, False, True] * 2
    assert caplog.text.count("rkd_distance: batches of fewer than 3 examples count nothing") == 1


# ---- warnings ----


def remarks(objective: Objective, student: Tensor, teacher: Tensor) -> list[str]:
    value(objective, student, teacher)
    return objective.remarks()


def test_warns_of_a_teacher_whose_texts_are_all_alike() -> None:
    student, teacher = drawn(6, 4), drawn(6, 6, seed=1)
    assert remarks(bound("pkt"), student, teacher) == []
    found = remarks(bound("pkt"), student, teacher * 0.01 + 15.0)
    assert len(found) == 1
    assert "set center=True" in found[0]
    assert remarks(bound("pkt", center=True), student, teacher * 0.01 + 15.0) == []


def test_warns_of_a_student_that_has_collapsed() -> None:
    objective, student = bound("rkd_distance"), torch.ones(4, 4, dtype=torch.float64, requires_grad=True)
    value(objective, student, drawn(4, 6)).backward()
    assert not student.grad.any()
    assert "collapsed" in objective.remarks()[0]
    assert remarks(objective, torch.ones(4, 4), drawn(4, 6)) == [], "it is told once"
    assert remarks(bound("rkd_distance"), drawn(4, 4), drawn(4, 6)) == []


@pytest.mark.parametrize("name", ["darkrank_hard", "darkrank_soft"])
def test_warns_of_scores_that_leave_one_order_all_the_probability(name: str) -> None:
    student, teacher = drawn(6, 4), drawn(6, 6, seed=1)
    found = remarks(bound(name, normalize=False), student, 10.0 * teacher)
    assert "beyond 50" in found[0]
    assert remarks(bound(name), student, 10.0 * teacher) == []


def test_warns_of_biased_alignment_of_few_rows() -> None:
    few, many = (24, 25)
    assert "near 1 for unrelated vectors" in remarks(bound("cka", unbiased=False), drawn(few, 4), drawn(few, 6))[0]
    assert remarks(bound("cka", unbiased=False), drawn(many, 4), drawn(many, 6)) == []
    assert remarks(bound("cka"), drawn(few, 4), drawn(few, 6)) == []


def test_remarks_are_of_training_alone_and_come_with_the_log(caplog: pytest.LogCaptureFixture) -> None:
    objective = bound("rkd_distance").eval()
    assert remarks(objective, torch.ones(4, 4), drawn(4, 6)) == []
    caplog.set_level(logging.WARNING)
    run = trainer(objectives.RKDDistance(layer_map=[[0, 0]], pool="first_token"), data=[
        {"input_ids": [5, 6 + i], "attention_mask": [1, 1], "labels": 0} for i in range(8)
    ])  # fmt: skip
    run.train()
    assert caplog.text.count("rkd_distance: all vectors of the student are equal") == 1


# ---- settings ----


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("darkrank_soft", {"length": 7}, "length is 7; it must be a whole number from 2 to 6"),
        ("darkrank_hard", {"length": 1}, "from 2 to 1024"),
        ("darkrank_hard", {"beta": 0.5}, "beta is 0.5"),
        ("darkrank_hard", {"alpha": 0.0}, "alpha is 0.0"),
        ("pkt", {"pool": "cls"}, "pool is 'cls'"),
        ("pkt", {"form": "codes"}, "did you mean 'code'"),
        ("pkt", {"gather": 1}, "gather is 1"),
        ("correlation_congruence", {"order": 0}, "order is 0"),
        ("correlation_congruence", {"kernel": "rbf"}, "kernel is 'rbf'"),
        ("correlation_congruence", {"gamma": -1.0}, "gamma is -1.0"),
        ("similarity_preserving", {"flatten": True, "gather": True}, "set gather=False"),
        ("similarity_preserving", {"flatten": True, "center": True}, "set center=False"),
        ("similarity_distribution", {"student_temperature": 0.01}, "teacher_temperature is 0.05, above"),
        ("cka", {"rows": "tokens", "gather": True}, "gather=False"),
        ("crd", {"dimension": 0}, "dimension is 0"),
        ("crd", {"temperature": 0}, "temperature is 0"),
    ],
)
def test_refuses_settings(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        objectives.make(name, settings)


# ---- cka ----


def hsic(k: Tensor, other: Tensor) -> float:
    """The unbiased estimate, as a sum over indices that are all different."""
    rows = len(k)
    indices = range(rows)
    first = sum(k[i, j] * other[i, j] for i, j in itertools.permutations(indices, 2)) / (rows * (rows - 1))
    second = sum(k[i, j] * other[q, r] for i, j, q, r in itertools.permutations(indices, 4))
    third = sum(k[i, j] * other[i, q] for i, j, q in itertools.permutations(indices, 3))
    second /= rows * (rows - 1) * (rows - 2) * (rows - 3)
    third /= rows * (rows - 1) * (rows - 2)
    return float(first + second - 2 * third)


@pytest.mark.parametrize("rows", [5, 7])
def test_alignment_is_that_of_the_unbiased_estimate(rows: int) -> None:
    """With few rows of wide vectors and with many of narrow ones, which are computed in two ways."""
    for widths in ((8, 9), (2, 3)):
        student, teacher = drawn(rows, widths[0]), drawn(rows, widths[1], seed=1)
        k, other = student @ student.T, teacher @ teacher.T
        expected = 1 - hsic(k, other) / math.sqrt(hsic(k, k) * hsic(other, other))
        found = value(bound("cka", widths), student + 100.0, teacher)
        assert float(found) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("unbiased", [True, False])
def test_alignment_is_blind_to_rotation_scale_and_offset(unbiased: bool) -> None:
    student, rotation = drawn(40, 4), torch.linalg.qr(drawn(4, 4, seed=3)).Q
    objective = bound("cka", (4, 4), unbiased=unbiased)
    loss = value(objective, student.float(), (3.0 * student @ rotation + 7.0).float())
    assert abs(float(loss)) < 1e-5


def test_tokens_are_rows_of_the_alignment() -> None:
    states, targets = drawn(2, 4, 4), drawn(2, 4, 6, seed=1)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    objective = bound("cka", rows="tokens")
    shown = [Activations(mask=mask, hidden={2: each}) for each in (states, targets)]
    found = objective(shown[0], shown[1], {"attention_mask": mask})
    expected = value(bound("cka"), states[mask.bool()], targets[mask.bool()])
    torch.testing.assert_close(found, expected)


# ---- contrast ----


def test_equal_texts_are_no_negatives() -> None:
    objective = bound("crd").double()
    student, teacher = drawn(3, 4), drawn(3, 6, seed=1)
    ids = torch.tensor([[4, 5, 0], [6, 7, 8], [4, 5, 9]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 0]])
    shown = [Activations(mask=mask, hidden={2: each.unsqueeze(1).expand(-1, 3, -1)}) for each in (student, teacher)]
    found = objective(shown[0], shown[1], {"input_ids": ids, "attention_mask": mask})
    z, w = (
        torch.nn.functional.normalize(maps[0](each), dim=-1)
        for maps, each in ((objective.student_maps, student), (objective.teacher_maps, teacher))
    )
    logits = (z @ w.T / 0.07).exp()
    allowed = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    rows, columns = (logits * allowed).sum(1), (logits * allowed).sum(0)
    expected = -(2 * logits.diagonal().log() - rows.log() - columns.log()).mean() / 2
    torch.testing.assert_close(found, expected)


def test_a_fingerprint_is_that_of_the_text() -> None:
    right = {
        "input_ids": torch.tensor([[5, 6, 0], [6, 5, 0], [5, 6, 7]]),
        "attention_mask": torch.tensor([[1, 1, 0]] * 2 + [[1, 1, 1]]),
    }
    left = {"input_ids": torch.tensor([[9, 5, 6]]), "attention_mask": torch.tensor([[0, 1, 1]])}
    found = fingerprints(right)
    assert len(set(found.tolist())) == 3
    assert fingerprints(left)[0] == found[0]
    assert fingerprints({"attention_mask": torch.ones(1, 2)}) is None


def test_what_contrast_learns_lies_beside_the_student(tmp_path: Any) -> None:
    run = trainer(objectives.CRD(dimension=8), output_dir=str(tmp_path), max_steps=1)
    before = {name: tensor.clone() for name, tensor in run.distillation.objectives.state_dict().items()}
    run.train()
    run.save_model()
    assert all(
        not torch.equal(tensor, before[name]) for name, tensor in run.distillation.objectives.state_dict().items()
    )
    with safe_open(tmp_path / "model.safetensors", "pt") as saved:
        assert not [name for name in list(saved.keys()) if "maps" in name]
    with safe_open(tmp_path / "distillation.safetensors", "pt") as saved:
        assert sorted(saved.keys()) == sorted(before)


def test_equal_texts_have_no_angle_whatever_the_rounding() -> None:
    """A text has states with other last digits in a batch that is padded further."""
    student, teacher = drawn(5, 4).float(), drawn(5, 6, seed=1).float()
    student[3] = student[1]
    expected = value(bound("rkd_angle"), student, teacher)
    for seed in range(3):
        rounded = student * (1 + 2e-7 * drawn(5, 4, seed=seed).float())
        assert not torch.equal(rounded[3], rounded[1])
        torch.testing.assert_close(value(bound("rkd_angle"), rounded, teacher), expected, rtol=1e-4, atol=1e-4)


def test_compiled_it_is_the_same_and_remarks_as_much() -> None:
    student, teacher = drawn(6, 4), 1e-3 * drawn(6, 6, seed=1) + 15.0
    plain, compiled = bound("pkt"), bound("pkt")
    mask = torch.ones(6, 1, dtype=torch.long)
    shown = [Activations(mask=mask, hidden={2: each.unsqueeze(1)}) for each in (student, teacher)]
    found = torch.compile(compiled, backend="eager")(shown[0], shown[1], {"attention_mask": mask})
    torch.testing.assert_close(found, value(plain, student, teacher))
    assert compiled.remarks() == plain.remarks() != []


def test_warns_of_an_alignment_without_a_value() -> None:
    assert "no gradient" in " ".join(remarks(bound("cka"), torch.ones(6, 4), drawn(6, 6)))
    assert remarks(bound("cka"), drawn(6, 4), drawn(6, 6, seed=1)) == []


def test_warns_of_a_text_that_is_related_without_a_token() -> None:
    for mask, told in ((torch.tensor([[1], [1], [0], [1]]), 1), (torch.ones(4, 1, dtype=torch.long), 0)):
        objective = bound("rkd_distance")
        shown = [Activations(mask=mask, hidden={2: drawn(4, 1, width, seed=width)}) for width in (4, 6)]
        objective(shown[0], shown[1], {"attention_mask": mask})
        assert sum("the vector 0" in text for text in objective.remarks()) == told
