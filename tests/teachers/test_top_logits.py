"""Losses against a teacher's largest logits: stored values, and laws that hold for any."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import CacheMismatch, DistillationError, IncompatiblePair
from hf_distill.objectives import Pair, SoftTargets
from hf_distill.tasks import TASKS
from hf_distill.teachers.cache import codecs
from hf_distill.top_logits import TopLogits
from tests.shapes import shape

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "top_logits.json").read_text(encoding="utf-8"))
TAILS = {"tail_bucket": "bucket", "uniform_tail": "uniform", "renormalized": "renormalized"}
CASES = {case["id"]: case for case in GOLDEN["cases"]}


def top_of(case: dict[str, Any], dtype: torch.dtype) -> tuple[Tensor, TopLogits, float]:
    inputs, temperature = case["inputs"], case["settings"]["temperature"]
    student = torch.tensor(inputs["student_logits"], dtype=dtype, requires_grad=True)
    values = torch.tensor(inputs["topk_values"], dtype=dtype)
    rest = inputs.get("rest_lse")
    tail = torch.log1p(-values.exp().sum(-1)) if rest is None else torch.tensor(rest, dtype=dtype)
    ids = torch.tensor(inputs["topk_ids"])
    return student, TopLogits(ids, values, {temperature: tail}, student.shape[-1]), temperature


def bound(classes: int, temperatures: tuple[float, ...] | None = (1.0,), **settings: Any) -> SoftTargets:
    objective = SoftTargets(**settings)
    sizes = shape(num_logits=classes)
    objective.bind(Pair.from_shapes(sizes, sizes, TASKS["single_label"], temperatures=temperatures))
    return objective


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_stored_values(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    student, top, temperature = top_of(case, dtype)
    objective = bound(student.shape[-1], (temperature,), temperature=temperature, tail=TAILS[case["settings"]["form"]])
    batch = {"input_ids": torch.ones(len(student), 4, dtype=torch.long)}
    loss = objective(Activations(logits=student), Activations(logits=top), batch) / len(student)
    loss.backward()
    tolerance = GOLDEN["about"]["tolerance"][str(dtype).removeprefix("torch.")]
    assert float(loss.detach()) == pytest.approx(case["expected"]["loss"], abs=tolerance["loss"])
    expected = torch.tensor(case["expected"]["grad"]["student_logits"], dtype=dtype)
    assert student.grad is not None
    assert (student.grad - expected).abs().max() <= tolerance["grad"]


def exact_top(teacher: Tensor, k: int, temperature: float) -> TopLogits:
    """By loops over sorted logits, without a codec's rounding."""
    order = teacher.argsort(-1, descending=True)
    ids = order[..., :k]
    less = teacher - teacher.max(-1, keepdim=True).values
    tail = (less.gather(-1, order[..., k:]) / temperature).exp().sum(-1).log()
    return TopLogits(ids, less.gather(-1, ids), {temperature: tail}, teacher.shape[-1])


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "cross_entropy", "jsd", "skew_kl", "skew_rkl"])
def test_a_bucket_of_one_class_is_exact_and_larger_ones_are_lower_bounds(kind: str, temperature: float) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 9, dtype=torch.float64) * 2
    objective = bound(9, (temperature,), kind=kind, temperature=temperature)
    whole = objective.rows(student, teacher, None)
    values = [objective.rows(student, exact_top(teacher, k, temperature), None) for k in range(1, 9)]
    torch.testing.assert_close(values[-1], whole)
    if kind != "cross_entropy":  # the bucket's entropy is less, too
        for fewer, more in itertools.pairwise(values):
            assert (fewer <= more + 1e-12).all()


@pytest.mark.parametrize("tail", ["bucket", "renormalized", "uniform"])
@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_the_largest_of_a_live_teacher_are_those_of_a_cache(kind: str, tail: str) -> None:
    if (kind, tail) == ("jsd", "renormalized"):
        with pytest.raises(IncompatiblePair, match="not finite where the teacher's law is 0"):
            SoftTargets(kind=kind, tail=tail, top_k=3)
        return
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 9, dtype=torch.float64) * 2
    settings = {"kind": kind, "tail": tail, "temperature": 2.0}
    live, cached = bound(9, None, top_k=3, **settings), bound(9, (2.0,), **settings)
    expected = cached.rows(student, exact_top(teacher, 3, 2.0), None)
    torch.testing.assert_close(live.rows(student, teacher, None), expected)
    all_of_them = bound(9, None, top_k=99, **settings).rows(student, teacher, None)
    torch.testing.assert_close(all_of_them, bound(9, None, **settings).rows(student, teacher, None))


def test_top_k_is_for_a_law_over_classes_that_a_teacher_shows_whole() -> None:
    with pytest.raises(DistillationError, match=r"top_k is 0; it must be a whole number from 1 on"):
        SoftTargets(top_k=0)
    with pytest.raises(IncompatiblePair, match="compares all probabilities of the teacher, and its top_k logits are"):
        SoftTargets(kind="probability_mse", top_k=2)
    with pytest.raises(IncompatiblePair, match="top_k is 2, and the teacher's cache has its largest logits alone"):
        bound(9, (2.0,), top_k=2, temperature=2.0)


def test_all_classes_kept_is_the_plain_divergence() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 9, dtype=torch.float64)
    top = TopLogits(teacher.argsort(-1), teacher.sort(-1).values, {1.0: torch.zeros(6)}, 9)
    objective = bound(9, temperature=1.0)
    torch.testing.assert_close(objective.rows(student, top, None), objective.rows(student, teacher, None))


def test_the_sum_of_the_rest_is_asked_for_at_the_training_temperature() -> None:
    with pytest.raises(IncompatiblePair, match=r"temperature is 2, .* knows the sum of the rest at 1"):
        bound(9, (1.0,), temperature=2.0)
    bound(9, (1.0,), temperature=2.0, tail="renormalized")
    codec = codecs.make("top_k", {"k": 2})
    rows = torch.randn(3, 9)
    codec.fit(rows)
    decoded = codec.decode(codec.encode(rows))
    assert isinstance(decoded, TopLogits)
    with pytest.raises(CacheMismatch, match="at the temperatures 1, and it is asked for at 2"):
        decoded.tail(2.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "logit_mse", "temperature": 1.0}, "compares all raw logits"),
        ({"kind": "reverse_kl", "temperature": 1.0, "tail": "renormalized"}, "not finite"),
    ],
)
def test_what_is_not_defined_on_the_largest_logits_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(IncompatiblePair, match=message):
        bound(9, (1.0,), **settings)


def test_a_student_far_from_the_teacher_gets_finite_losses_and_gradients() -> None:
    student = torch.tensor([[200.0, -200.0, 0.0, 0.0]], requires_grad=True)
    top = exact_top(torch.tensor([[-90.0, 90.0, 0.0, 0.0]]), 2, 1.0)
    for tail in ("bucket", "uniform", "renormalized"):
        student.grad = None
        loss = bound(4, temperature=1.0, tail=tail).rows(student, top, None).sum()
        loss.backward()
        assert torch.isfinite(loss)
        assert student.grad is not None
        assert torch.isfinite(student.grad).all()
