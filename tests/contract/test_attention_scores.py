"""What is special to attention scores: which keys a query sees, heads, reductions, and where the scores come from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import AttentionKL, AttentionMSE, Objective, Pair
from hf_distill.tasks import TASKS
from tests.shapes import shape
from tests.tiny_models import batch as model_batch
from tests.tiny_models import tiny

BOTH = pytest.mark.parametrize("name", ["attention_kl", "attention_mse"])
TASK = TASKS["masked_lm"]


def bound(name: str, *, causal: bool = False, teacher_causal: bool = False, **settings: Any) -> Objective:
    objective = objectives.make(name, settings)
    objective.bind(Pair.from_shapes(shape(1, causal=causal), shape(1, causal=teacher_causal), TASK))
    return objective


def scores(examples: int, length: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(examples, 2, length, length, generator=generator, dtype=torch.float64)


def sum_and_count(
    objective: Objective, student: Tensor, teacher: Tensor, mask: Tensor, positions: Tensor | None = None
) -> tuple[Tensor, int]:
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask}
    if positions is not None:
        batch["position_ids"] = positions
    sides = [Activations(mask=mask, scores={1: side}) for side in (student, teacher)]
    return objective(*sides, batch), int(objective.count(batch, TASK))


def loop(name: str, student: Tensor, teacher: Tensor, keys: dict[tuple[int, int], list[int]]) -> float:
    """The sum over heads' means of every query's value; `keys[b, i]` are those that query i of example b sees."""
    total = 0.0
    heads = student.shape[1]
    for (b, i), seen in keys.items():
        for a in range(heads):
            ours = [float(student[b, a, i, j]) for j in seen]
            theirs = [float(teacher[b, a, i, j]) for j in seen]
            if name == "attention_mse":
                total += sum((s - t) ** 2 for s, t in zip(ours, theirs, strict=True)) / heads
                continue
            log_q, log_p = ([x - math.log(sum(map(math.exp, side))) for x in side] for side in (ours, theirs))
            total += sum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True)) / heads
    return total


# ---- which keys a query sees ----

MASK = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 0]])
REAL = [(0, i) for i in range(4)] + [(1, 1), (1, 2)]
OF_EXAMPLE = {0: [0, 1, 2, 3], 1: [1, 2]}


@BOTH
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_the_sum_over_what_is_seen(name: str, causal: bool, packed: bool) -> None:
    student, teacher = scores(2, 4, 0), scores(2, 4, 1)
    positions = torch.tensor([[0, 1, 0, 1], [0, 0, 1, 2]]) if packed else None
    documents = {(0, 2): 1, (0, 3): 1} if packed else {}
    keys = {
        (b, i): [
            j for j in OF_EXAMPLE[b] if (not causal or j <= i) and documents.get((b, i), 0) == documents.get((b, j), 0)
        ]
        for b, i in REAL
    }
    found, count = sum_and_count(bound(name, causal=causal), student, teacher, MASK, positions)
    assert float(found) == pytest.approx(loop(name, student, teacher, keys), rel=1e-12)
    assert count == (len(REAL) if name == "attention_kl" else sum(map(len, keys.values())))


@BOTH
def test_either_model_makes_a_pair_causal(name: str) -> None:
    sides = scores(2, 4, 0), scores(2, 4, 1), MASK
    both = sum_and_count(bound(name, causal=True, teacher_causal=True), *sides)
    assert sum_and_count(bound(name, causal=True), *sides) == both
    assert sum_and_count(bound(name, teacher_causal=True), *sides) == both
    assert sum_and_count(bound(name), *sides) != both


@BOTH
@pytest.mark.parametrize("causal", [False, True])
def test_a_packed_row_is_its_documents(name: str, causal: bool) -> None:
    student, teacher, objective = scores(1, 5, 0), scores(1, 5, 1), bound(name, causal=causal)
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    whole = sum_and_count(objective, student, teacher, torch.ones(1, 5, dtype=torch.long), positions)
    parts = [
        sum_and_count(objective, student[..., at, at], teacher[..., at, at], torch.ones(1, size, dtype=torch.long))
        for at, size in ((slice(0, 3), 3), (slice(3, 5), 2))
    ]
    assert float(whole[0]) == pytest.approx(sum(float(value) for value, _ in parts), rel=1e-12)
    assert whole[1] == sum(count for _, count in parts)


@BOTH
def test_position_ids_of_another_length_are_refused(name: str) -> None:
    with pytest.raises(DataError, match=r"position_ids have the shape \(2, 3\), the text \(2, 4\)"):
        sum_and_count(bound(name), scores(2, 4, 0), scores(2, 4, 1), MASK, torch.zeros(2, 3, dtype=torch.long))


# ---- reductions ----


def test_the_entropy_is_what_cross_entropy_adds() -> None:
    student, teacher = scores(2, 4, 0), scores(2, 4, 1)
    leaves = [student.clone().requires_grad_() for _ in range(2)]
    values = [
        sum_and_count(bound("attention_kl", kind=kind), leaf, teacher, MASK)[0]
        for kind, leaf in zip(("forward_kl", "cross_entropy"), leaves, strict=True)
    ]
    sum(values).backward()
    laws = [torch.softmax(teacher[0, a, i], -1) for a in (0, 1) for i in range(4)]
    laws += [torch.softmax(teacher[1, a, i, 1:3], -1) for a in (0, 1) for i in (1, 2)]
    entropy = sum(-float((law * law.log()).sum()) for law in laws) / 2
    assert float((values[1] - values[0]).detach()) == pytest.approx(entropy, rel=1e-12)
    torch.testing.assert_close(leaves[0].grad, leaves[1].grad, rtol=0, atol=1e-12)


@BOTH
def test_example_mean(name: str) -> None:
    student, teacher, objective = scores(2, 4, 0), scores(2, 4, 1), bound(name)
    single = [sum_and_count(objective, student[b : b + 1], teacher[b : b + 1], MASK[b : b + 1]) for b in (0, 1)]
    found, count = sum_and_count(bound(name, reduction="example_mean"), student, teacher, MASK)
    assert count == 2
    assert float(found) == pytest.approx(sum(float(value) / units for value, units in single), rel=1e-12)


@BOTH
def test_blocks_are_averaged_or_summed(name: str) -> None:
    mask, found = torch.ones(1, 3, dtype=torch.long), {}
    tensors = {layer: (scores(1, 3, layer), scores(1, 3, layer + 10)) for layer in (1, 2)}
    for layer_map in ([[1, 1]], [[2, 2]], [[1, 1], [2, 2]]):
        for layer_reduction in ("mean", "sum"):
            objective = objectives.make(name, {"layer_map": layer_map, "layer_reduction": layer_reduction})
            objective.bind(Pair.from_shapes(shape(2), shape(2), TASK))
            sides = [Activations(mask=mask, scores={i: pair[side] for i, pair in tensors.items()}) for side in (0, 1)]
            found[str(layer_map), layer_reduction] = float(objective(*sides, {"input_ids": mask}))
    one, two = found["[[1, 1]]", "sum"], found["[[2, 2]]", "sum"]
    assert found["[[1, 1], [2, 2]]", "sum"] == pytest.approx(one + two, rel=1e-12)
    assert found["[[1, 1], [2, 2]]", "mean"] == pytest.approx((one + two) / 2, rel=1e-12)


def test_tinybert_adds_up_the_blocks_by_default() -> None:
    assert AttentionMSE().layer_reduction == "sum"
    assert AttentionKL().layer_reduction == "mean"


def test_masked_keys_alone_take_the_queries_of_the_padding_in() -> None:
    student, teacher = scores(2, 4, 0), scores(2, 4, 1)
    keys = {(b, i): OF_EXAMPLE[b] for b in (0, 1) for i in range(4)}
    found, count = sum_and_count(bound("attention_mse", masking="keys"), student, teacher, MASK)
    assert float(found) == pytest.approx(loop("attention_mse", student, teacher, keys), rel=1e-12)
    assert count == 2 * 4 * 4
    per_example = bound("attention_mse", masking="keys", reduction="example_mean")
    value, examples = sum_and_count(per_example, student, teacher, MASK)
    assert (float(value), examples) == (pytest.approx(float(found) / 16, rel=1e-12), 2)


# ---- layers ----


@BOTH
@pytest.mark.parametrize("layer_map", [None, "uniform", "spread"])
def test_the_embedding_output_has_no_scores(name: str, layer_map: str | None) -> None:
    objective = objectives.make(name, {"layer_map": layer_map})
    objective.bind(Pair.from_shapes(shape(2), shape(4), TASK))
    assert list(objective.layers) == [(1, 2), (2, 4)]
    assert sorted(map(str, objective.needs().teacher)) == ["scores[2]", "scores[4]"]


@BOTH
@pytest.mark.parametrize("pair", [[0, 0], [1, 0], [0, 1]])
def test_layer_0_is_refused(name: str, pair: list[int]) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: .*layer 0 is the embedding output, which has no scores"):
        objectives.make(name, {"layer_map": [pair]})


@BOTH
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer_map": "spred"}, "did you mean 'spread'"),
        ({"layer_map": [[1, 3]]}, "student layer 1 with teacher layer 3"),
        ({"layer_map": "uniform"}, "3 teacher layers are not a multiple of 2"),
        ({"stack": "decoder"}, "has no stack 'decoder'"),
        ({"reduction": "mean"}, "reduction is 'mean'"),
    ],
)
def test_settings_that_do_not_fit(name: str, settings: dict[str, Any], words: str) -> None:
    teacher = shape(3) if settings.get("layer_map") == "uniform" else shape(2)
    with pytest.raises(DistillationError, match=words):
        objectives.make(name, settings).bind(Pair.from_shapes(shape(2), teacher, TASK))


# ---- where the scores come from ----


def test_captured_scores_give_the_divergence_of_eager_attentions() -> None:
    """Both under sdpa, the student in train mode with half of its attention dropped, against eager evaluation."""
    dropouts = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.5}
    models = [tiny("bert", "AutoModel", layers=2, seed=seed, **dropouts) for seed in (0, 1)]
    inputs = model_batch("bert")
    anatomies = [Anatomy.of(model) for model in models]
    objective = AttentionKL(layer_map=[[1, 2]])
    objective.bind(Pair.from_shapes(anatomies[0].shape, anatomies[1].shape, TASK))
    needs = objective.needs()
    models[0].train()
    shown = []
    for model, anatomy, signals in zip(models, anatomies, (needs.student, needs.teacher), strict=True):
        model.set_attn_implementation("sdpa")
        shown.append(Capture(anatomy, signals, role="student" if model.training else "teacher")(inputs)[1])
        model.eval().set_attn_implementation("eager")
    laws = [model(**inputs, output_attentions=True).attentions[at] for model, at in zip(models, (0, 1), strict=True)]
    mask = inputs["attention_mask"].bool()
    expected = 0.0
    for b, i in mask.nonzero().tolist():
        q, p = (law[b, :, i, mask[b]].detach().double() for law in laws)
        expected += float((p * (p.log() - q.log())).sum(-1).mean())
    assert float(objective(*shown, inputs).detach()) == pytest.approx(expected, rel=1e-5)
