"""What the stored refusals ask for: which pairs, settings and batches are refused, warned about or taken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives import HiddenCosine, HiddenMSE, Pair, SoftTargets
from hf_distill.tasks import TASKS
from tests.shapes import shape

GOLDEN = Path(__file__).parent / "golden"
FILES = [json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8")) for name in ("response", "families")]
REFUSALS = {(refusal["method"], refusal["situation"]) for file in FILES for refusal in file["refusals"]}


def test_every_refusal_is_tested() -> None:
    assert {
        ("soft_targets", "student and teacher class counts differ and neither vocab nor label_map is set"),
        ("soft_targets", "temperature <= 0"),
        ("soft_targets", "single-output regression head (C = 1)"),
        ("jsd", "beta = 0 or 1"),
        ("hidden_cosine", "widths differ and no projection"),
        ("hidden_mse", "widths differ and no projection"),
        ("minilm", "student heads != teacher heads"),
        ("minilm_v2", "a q, k or v width not divisible by relation_heads"),
        ("minilm_v2", "different tokenisation or sequence length on the two sides"),
        ("minilm_v2", "sequence of one real token"),
        ("attention_mse", "head counts differ"),
        ("attention_mse", "attention probabilities passed instead of scores"),
        ("attention_kl", "probabilities taken after dropout"),
        ("attention_kl", "sdpa or flash attention"),
        ("tinybert_layers", "teacher layers not a multiple of student layers"),
        ("feature_map_transfer", "hidden widths differ"),
        ("feature_map_transfer", "a teacher of another depth"),
        ("pkd", "teacher or student without a [CLS]-like first token (causal models)"),
    } == REFUSALS


def test_refuses_other_class_counts() -> None:
    pair = Pair.from_shapes(shape(num_logits=3), shape(num_logits=4), TASKS["single_label"])
    objective = SoftTargets()
    objective.bind(pair)
    batch = {"input_ids": torch.zeros(2, 1, dtype=torch.long)}
    with pytest.raises(IncompatiblePair, match=r"\(2, 3\) \(student\) and \(2, 4\) \(teacher\)"):
        objective(Activations(logits=torch.zeros(2, 3)), Activations(logits=torch.zeros(2, 4)), batch)


@pytest.mark.parametrize("temperature", [0, 0.0, -1.0, float("nan"), float("inf"), True, "2"])
def test_refuses_a_temperature_that_is_no_positive_number(temperature: Any) -> None:
    with pytest.raises(DistillationError, match=r"temperature is .*; it must be a number above 0"):
        SoftTargets(temperature=temperature)


def test_refuses_the_softmax_of_one_logit() -> None:
    with pytest.raises(IncompatiblePair, match="problem_type='regression'"):
        SoftTargets().bind(Pair.from_shapes(shape(num_logits=1), shape(num_logits=1), TASKS["single_label"]))


@pytest.mark.parametrize("beta", [0, 1, 0.0, 1.0])
def test_accepts_the_ends_of_beta(beta: float) -> None:
    assert SoftTargets(kind="jsd", beta=beta).beta == beta


@pytest.mark.parametrize(
    "objective", [HiddenCosine(layer_map="final"), HiddenMSE(projection="none")], ids=lambda o: o.name
)
def test_refuses_other_widths_without_a_projection(objective: Any) -> None:
    pair = Pair.from_shapes(shape(width=4), shape(width=6), TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match=r"4 wide, the teacher's 6; set projection="):
        objective.bind(pair)


def test_refuses_relation_heads_that_do_not_divide() -> None:
    pair = Pair.from_shapes(shape(width=4), shape(width=6), TASKS["masked_lm"])
    with pytest.raises(IncompatiblePair, match=r"relation_heads is 4, .*teacher query width 6.*; it may be 1, 2\."):
        objectives.make("minilm_v2", {"relation_heads": 4}).bind(pair)


def test_refuses_relations_over_other_positions() -> None:
    objective = objectives.make("minilm_v2", {"relations": {"vv": 1.0}})
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS["masked_lm"]))
    mask = torch.ones(1, 3, dtype=torch.long)
    student, teacher = (Activations(mask=mask[:, :length], values={2: torch.zeros(1, length, 4)}) for length in (3, 2))
    with pytest.raises(IncompatiblePair, match=r"1 texts of 3 positions, the teacher 1 of 2.*the same tokens"):
        objective(student, teacher, {"input_ids": mask, "attention_mask": mask})


@pytest.mark.parametrize("name", ["minilm", "minilm_v2"])
def test_accepts_a_text_of_one_token(name: str) -> None:
    objective = objectives.make(name, {})
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS["masked_lm"]))
    mask = torch.tensor([[1, 0]])
    fields = ("queries", "keys", "values")
    leaves = {field: torch.randn(1, 2, 4, requires_grad=True) for field in fields}
    teacher = Activations(mask=mask, **{field: {2: torch.randn(1, 2, 4)} for field in fields})
    student = Activations(mask=mask, **{field: {2: leaf} for field, leaf in leaves.items()})
    loss = objective(student, teacher, {"input_ids": mask, "attention_mask": mask})
    loss.backward()
    assert loss == 0
    assert not any(leaf.grad.any() for leaf in leaves.values())


def test_refuses_other_heads_for_minilm() -> None:
    pair = Pair.from_shapes(shape(heads=2), shape(heads=4), TASKS["masked_lm"])
    with pytest.raises(IncompatiblePair, match=r"minilm: the student has 2 attention heads .* 4 .*use minilm_v2"):
        objectives.make("minilm", {}).bind(pair)


@pytest.mark.parametrize("name", ["attention_kl", "attention_mse"])
def test_refuses_other_numbers_of_heads(name: str) -> None:
    pair = Pair.from_shapes(shape(heads=2), shape(heads=4), TASKS["masked_lm"])
    with pytest.raises(
        IncompatiblePair, match=rf"{name}: the student has 2 attention heads, the teacher 4.*minilm_v2"
    ):
        objectives.make(name, {}).bind(pair)


@pytest.mark.parametrize("name", ["attention_kl", "attention_mse"])
def test_attention_probabilities_cannot_be_passed(name: str) -> None:
    """Scores are recomputed from queries and keys, whatever attention function runs and whatever it drops."""
    objective = objectives.make(name, {})
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS["masked_lm"]))
    assert {signal.field for signal in objective.needs().student | objective.needs().teacher} == {"scores"}
    with pytest.raises(DistillationError, match="no field 'attentions'"):
        Activations(attentions=(torch.full((1, 2, 3, 3), 1 / 3),))


@pytest.mark.parametrize("name", ["attention_mse", "hidden_mse"])
def test_refuses_a_uniform_map_of_a_depth_that_does_not_divide(name: str) -> None:
    objective = objectives.make(name, {"layer_map": "uniform"})
    with pytest.raises(IncompatiblePair, match=r"5 teacher layers are not a multiple of 2.*'spread'"):
        objective.bind(Pair.from_shapes(shape(2), shape(5), TASKS["masked_lm"]))


def test_refuses_feature_maps_of_other_widths_and_depths() -> None:
    for teacher, words in (
        (shape(2, 6), r"4 wide, the teacher's 6.*hidden_mse"),
        (shape(4), r"2 layers, the teacher 4"),
    ):
        with pytest.raises(IncompatiblePair, match=words):
            objectives.make("feature_map_transfer", {}).bind(Pair.from_shapes(shape(), teacher, TASKS["masked_lm"]))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_refuses_to_pool_a_causal_model_at_its_first_token(side: str) -> None:
    sides = [shape(causal=side == name) for name in ("student", "teacher")]
    pair = Pair.from_shapes(*sides, TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match=rf"the {side} is causal.*pooling='last_token'"):
        objectives.make("pkd", {}).bind(pair)
    objectives.make("pkd", {"pooling": "last_token"}).bind(pair)
