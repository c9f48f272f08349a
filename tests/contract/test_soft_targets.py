"""What is special to soft targets: their minima, invariances, temperature, and the forms by task."""

from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Pair, SoftTargets
from hf_distill.objectives.response.soft_targets import KINDS, RAW
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape

DIVERGENCES = tuple(kind for kind in KINDS if kind not in ("cross_entropy", *RAW))
IDS = {"input_ids": torch.zeros(6, 1, dtype=torch.long)}


def randn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bound(
    task: str = "single_label", classes: int = 4, alignment: dict[str, Any] | None = None, **settings: Any
) -> SoftTargets:
    objective = SoftTargets(**settings)
    sides = (shape(num_logits=classes), shape(num_logits=classes))
    objective.bind(Pair.from_shapes(*sides, TASKS[task], **(alignment or {})))
    return objective


def loss(objective: SoftTargets, student: Tensor, teacher: Tensor, batch: dict[str, Tensor] | None = None) -> Tensor:
    return objective(Activations(logits=student), Activations(logits=teacher), IDS if batch is None else batch)


def gradient(objective: SoftTargets, student: Tensor, teacher: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    loss(objective, leaf, teacher).backward()
    assert leaf.grad is not None
    return leaf.grad


# ---- minima ----


@pytest.mark.parametrize("kind", [*DIVERGENCES, *RAW])
def test_equal_sides_give_zero(kind: str) -> None:
    logits = randn(6, 4)
    found = loss(bound(kind=kind), logits, logits)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)


def test_equal_sides_give_the_entropy_in_cross_entropy() -> None:
    logits = randn(6, 4)
    law = torch.softmax(logits / 3.0, -1)
    entropy = sum(-p * math.log(p) for p in law.flatten().tolist())
    found = loss(bound(kind="cross_entropy", temperature=3.0), logits, logits)
    assert float(found) == pytest.approx(9.0 * entropy, rel=1e-12)


def test_equal_sides_give_the_binary_entropy_of_labels() -> None:
    logits = randn(6, 4)
    on = torch.sigmoid(logits).flatten().tolist()
    entropy = sum(-r * math.log(r) - (1 - r) * math.log(1 - r) for r in on)
    found = loss(bound("multi_label", kind="cross_entropy", temperature=1.0), logits, logits)
    assert float(found) == pytest.approx(entropy, rel=1e-12)
    assert float(loss(bound("multi_label"), logits, logits)) == pytest.approx(0.0, abs=1e-12)


# ---- invariances ----


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RAW])
def test_a_constant_added_to_a_row_changes_nothing(kind: str) -> None:
    objective, student, teacher = bound(kind=kind), randn(6, 4), randn(6, 4, seed=1)
    shifts = 10.0 * randn(6, 1, seed=2), 10.0 * randn(6, 1, seed=3)
    shifted = loss(objective, student + shifts[0], teacher + shifts[1])
    torch.testing.assert_close(shifted, loss(objective, student, teacher), rtol=1e-10, atol=1e-12)


def test_a_constant_does_change_logit_mse_and_labels() -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    for objective in (bound(kind="logit_mse"), bound("multi_label")):
        assert abs(float(loss(objective, student + 3.0, teacher) / loss(objective, student, teacher)) - 1.0) > 0.2


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RAW])
@pytest.mark.parametrize("temperature", [0.5, 2.0, 10.0])
def test_tau2_multiplies_value_and_gradient_by_the_square(kind: str, temperature: float) -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    scaled = bound(kind=kind, temperature=temperature)
    plain = bound(kind=kind, temperature=temperature, scale="none")
    torch.testing.assert_close(
        loss(scaled, student, teacher), temperature**2 * loss(plain, student, teacher), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(
        gradient(scaled, student, teacher), temperature**2 * gradient(plain, student, teacher), rtol=1e-10, atol=1e-14
    )


def test_tau2_keeps_the_size_of_the_gradient() -> None:
    student, teacher = 1.5 * randn(6, 4), 1.5 * randn(6, 4, seed=1)
    norms = [float(gradient(bound(temperature=t), student, teacher).norm()) for t in (1.0, 10.0)]
    bare = float(gradient(bound(temperature=10.0, scale="none"), student, teacher).norm())
    assert 0.3 < norms[1] / norms[0] < 3.0
    assert norms[1] / bare == pytest.approx(100.0, rel=1e-9)


def test_high_temperature_approaches_centred_logit_mse() -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    centred = (student - student.mean(-1, keepdim=True)) - (teacher - teacher.mean(-1, keepdim=True))
    expected = float(centred.square().sum()) / (2 * 4)
    assert float(loss(bound(temperature=1e3), student, teacher)) == pytest.approx(expected, rel=1e-2)


def test_the_sum_of_squares_is_the_mean_times_the_classes() -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    expected = 4 * float(loss(bound(kind="logit_mse"), student, teacher))
    assert float(loss(bound(kind="logit_sse"), student, teacher)) == pytest.approx(expected, rel=1e-12)


def test_logit_mse_knows_no_temperature() -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    expected = (
        sum((a - b) ** 2 for a, b in zip(student.flatten().tolist(), teacher.flatten().tolist(), strict=True)) / 4
    )
    for temperature in (1.0, 7.0):
        found = loss(bound(kind="logit_mse", temperature=temperature), student, teacher)
        assert float(found) == pytest.approx(expected, rel=1e-12)


# ---- the two ends and the middle of the Jensen-Shannon divergence ----


@pytest.mark.parametrize(("beta", "kind"), [(0.0, "forward_kl"), (1.0, "reverse_kl")])
def test_the_ends_of_jsd(beta: float, kind: str) -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    assert torch.equal(loss(bound(kind="jsd", beta=beta), student, teacher), loss(bound(kind=kind), student, teacher))


def test_forward_kl_puts_the_teacher_first() -> None:
    p, q = (0.5, 0.25, 0.25), (0.7, 0.2, 0.1)
    teacher, student = torch.tensor([p]).double().log(), torch.tensor([q]).double().log()
    batch = {"input_ids": torch.zeros(1, 1)}
    settings: dict[str, Any] = {"temperature": 1.0, "classes": 3}
    forward = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    reverse = sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert float(loss(bound(**settings), student, teacher, batch)) == pytest.approx(forward, rel=1e-6)
    assert float(loss(bound(kind="reverse_kl", **settings), student, teacher, batch)) == pytest.approx(
        reverse, rel=1e-6
    )


@pytest.mark.parametrize("beta", [0.1, 0.3, 0.5])
def test_jsd_is_symmetric(beta: float) -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    one = loss(bound(kind="jsd", beta=beta), student, teacher)
    other = loss(bound(kind="jsd", beta=1.0 - beta), teacher, student)
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)


def test_jsd_near_an_end_is_its_share_of_the_kl() -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    for beta, share, kind in ((1e-6, 1e-6, "forward_kl"), (1.0 - 1e-6, 1e-6, "reverse_kl")):
        near = loss(bound(kind="jsd", beta=beta), student, teacher)
        assert float(near) / share == pytest.approx(float(loss(bound(kind=kind), student, teacher)), rel=1e-4)


@pytest.mark.parametrize(("kind", "limit"), [("skew_kl", "forward_kl"), ("skew_rkl", "reverse_kl")])
def test_skew_approaches_the_kl(kind: str, limit: str) -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    near = loss(bound(kind=kind, alpha=1e-9), student, teacher)
    torch.testing.assert_close(near, loss(bound(kind=limit), student, teacher), rtol=1e-6, atol=0)


# ---- classes that the teacher rules out, and huge logits ----


@pytest.mark.parametrize("kind", ["forward_kl", "cross_entropy", "jsd", "skew_kl", "skew_rkl"])
def test_a_class_without_teacher_mass_adds_nothing(kind: str) -> None:
    """0 log 0 = 0: the value is that of a teacher whose logit is merely tiny."""
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    ruled_out, tiny = teacher.clone(), teacher.clone()
    ruled_out[:, 2], tiny[:, 2] = -math.inf, -1e6
    objective = bound(kind=kind)
    torch.testing.assert_close(
        loss(objective, student, ruled_out), loss(objective, student, tiny), rtol=1e-9, atol=1e-12
    )
    found = gradient(objective, student, ruled_out)
    torch.testing.assert_close(found, gradient(objective, student, tiny), rtol=1e-9, atol=1e-12)


def test_reverse_kl_to_a_ruled_out_class_is_infinite() -> None:
    """Not some large finite number, which would pass for a loss."""
    student, teacher = torch.zeros(6, 4), torch.zeros(6, 4)
    student[:, 2], teacher[:, 2] = -20.0, -math.inf
    objective = bound(kind="reverse_kl", temperature=1.0)
    assert math.isinf(float(loss(objective, student, teacher)))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_far_apart_stay_finite_in_float32(kind: str) -> None:
    student, teacher = torch.zeros(6, 4), torch.zeros(6, 4)
    student[:, 0], teacher[:, 1] = 1e4, 1e4
    objective = bound(kind=kind, temperature=1.0)
    assert torch.isfinite(loss(objective, student, teacher))
    assert torch.isfinite(gradient(objective, student, teacher)).all()


# ---- by task ----


@pytest.mark.parametrize("kind", ["forward_kl", "cross_entropy"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_one_label_is_a_softmax_over_two_classes(kind: str, temperature: float) -> None:
    student, teacher = randn(6, 1), randn(6, 1, seed=1)
    settings: dict[str, Any] = {"kind": kind, "temperature": temperature}
    sigmoid = loss(bound("multi_label", classes=1, **settings), student, teacher)
    pairs = [torch.cat([z, torch.zeros_like(z)], -1) for z in (student, teacher)]
    softmax = loss(bound(classes=2, **settings), *pairs)
    torch.testing.assert_close(sigmoid, softmax, rtol=1e-12, atol=0)


def test_label_reduction_sums_the_labels_of_an_example() -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    batch = {"labels": torch.zeros(6, 4, dtype=torch.float64)}
    batch["labels"][0] = IGNORED
    batch["labels"][1, 1:] = IGNORED
    mean, total = bound("multi_label"), bound("multi_label", label_reduction="sum")
    assert torch.equal(loss(mean, student, teacher, batch), loss(total, student, teacher, batch))
    task = TASKS["multi_label"]
    assert (int(mean.count(batch, task)), int(total.count(batch, task))) == (17, 5)
    unlabelled = {"input_ids": batch["labels"]}
    assert (mean.count(unlabelled, task), total.count(unlabelled, task)) == (24, 6)


def test_regression_counts_every_score() -> None:
    objective = bound("regression", classes=2)
    student, teacher = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 5.0]])
    batch = {"input_ids": torch.zeros(1, 3)}
    assert float(loss(objective, student, teacher, batch)) == 10.0
    assert objective.count(batch, TASKS["regression"]) == 2


def test_unlabelled_examples_count() -> None:
    batch = {"labels": torch.full((6,), IGNORED)}
    assert bound().count(batch, TASKS["single_label"]) == 6


def test_padded_answers_stay_out_at_any_temperature() -> None:
    """In half precision, too, where the smallest number is not small enough at high temperature."""
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    batch = {"input_ids": mask, "attention_mask": mask}
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        sides = [randn(2, 1, 5, seed=seed).to(dtype) for seed in (1, 2)]
        found, short = [], []
        for temperature in (2.0, 1e4):
            objective = bound("question_answering", classes=2, temperature=temperature)
            shown = [Activations(start_logits=side[0], end_logits=side[1]) for side in sides]
            found.append(objective(*shown, batch))
            shown = [Activations(start_logits=side[0, :, :3], end_logits=side[1, :, :3]) for side in sides]
            short.append(objective(*shown, {name: column[:, :3] for name, column in batch.items()}))
        assert found[0] > 0.01
        torch.testing.assert_close(found, short, rtol=1e-5, atol=0)


def test_element_mean_divides_by_the_classes_that_are_compared() -> None:
    student, teacher = randn(6, 4), randn(6, 6, seed=1)
    objective = bound(reduction="element_mean", alignment={"vocabulary": 3})
    cut = bound(classes=3)
    expected = loss(cut, student[:, :3], teacher[:, :3]) / 3
    torch.testing.assert_close(loss(objective, student, teacher), expected, rtol=1e-12, atol=0)


def test_teacher_columns_are_put_in_the_students_order() -> None:
    student, teacher = randn(6, 4), randn(6, 4, seed=1)
    columns = (2, 0, 3, 1)
    reordered = torch.stack([teacher[:, column] for column in columns], -1)
    found = loss(bound(alignment={"teacher_columns": columns}), student, teacher)
    assert torch.equal(found, loss(bound(), student, reordered))


# ---- refusals ----


@pytest.mark.parametrize(
    ("task", "settings", "words"),
    [
        ("single_label", {"tokens": "masked"}, "tokens is 'masked'; a single_label task has nothing: every example"),
        ("causal_lm", {"tokens": "all"}, "a causal_lm task has labeled, attention"),
        ("multi_label", {"kind": "jsd"}, "kind 'jsd' is not defined for a multi_label task"),
        ("multi_label", {"label_reduction": "sum", "reduction": "example_mean"}, "contradict each other"),
        ("multi_label", {"reduction": "element_mean"}, "multi_label loss is a mean over elements already"),
        ("regression", {"reduction": "element_mean"}, "regression loss is a mean over elements already"),
        ("single_label", {"label_reduction": "sum"}, "sums the labels of an example; single_label has none"),
        ("question_answering", {"kind": "logit_mse"}, "would depend on padding"),
        ("question_answering", {"kind": "logit_sse"}, "would depend on padding"),
        ("question_answering", {"kind": "logit_l1"}, "would depend on padding"),
        ("multi_label", {"kind": "logit_sse"}, "not defined for a multi_label task"),
        ("multi_label", {"kind": "logit_l1"}, "not defined for a multi_label task"),
        ("question_answering", {"reduction": "element_mean"}, "would depend on padding"),
    ],
)
def test_refuses_what_the_task_does_not_have(task: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(IncompatiblePair, match=words):
        bound(task, **settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "kl"}, r"kind is 'kl'; it may be forward_kl, "),
        ({"kind": "foward_kl"}, r"did you mean 'forward_kl'"),
        ({"scale": "tau"}, r"did you mean 'tau2'"),
        ({"reduction": "batchmean"}, r"reduction is 'batchmean'"),
        ({"tokens": "mask"}, r"tokens is 'mask' \(did you mean 'masked'\?\)"),
        ({"tokens": 3}, r"tokens is 3"),
        ({"beta": 1.5}, r"beta is 1\.5; it must be a number at least 0 and at most 1"),
        ({"beta": float("nan")}, r"beta is nan"),
        ({"alpha": 0.0}, r"alpha is 0\.0; it must be a number above 0"),
        ({"alpha": 1.0}, r"alpha is 1"),
        ({"label_reduction": None}, r"label_reduction is None"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        objectives.make("soft_targets", settings)


def test_missing_labels_are_named_where_they_say_what_counts() -> None:
    with pytest.raises(DataError, match=r"causal_lm: the column 'labels' .* the batch has only input_ids"):
        bound("causal_lm").count(IDS, TASKS["causal_lm"])


def test_survives_pickling() -> None:
    objective = bound("regression", classes=1)
    again = pickle.loads(pickle.dumps(objective))
    student, teacher = randn(6, 1), randn(6, 1, seed=1)
    assert torch.equal(loss(again, student, teacher), loss(objective, student, teacher))
