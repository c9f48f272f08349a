"""What a run costs, in floating-point operations, by the formulae, and in waits for the device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification, BertModel, PreTrainedModel

from hf_distill import Labels, MiniLMv2, SoftTargets
from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.distillation import Counts, Distillation
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.terms import Terms
from hf_distill.tasks import task_of
from hf_distill.teachers import Frozen

BATCH, LENGTH, WIDTH, CLASSES = 4, 16, 24, 2
TOKENS = BATCH * LENGTH


def bert(kind: type[PreTrainedModel], layers: int) -> PreTrainedModel:
    torch.manual_seed(layers)
    config = BertConfig(
        vocab_size=96,
        hidden_size=WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=CLASSES,
        attn_implementation="eager",  # the products of a fused kernel are counted otherwise backward
    )
    return kind(config)


def inputs() -> dict[str, Tensor]:
    ids = torch.randint(4, 96, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % CLASSES}


def layer(tokens: int = TOKENS) -> int:
    """A whole layer forward: four projections of width x width, two of width x 4 width, scores and their sum."""
    return tokens * (24 * WIDTH**2 + 4 * LENGTH * WIDTH)


def one_row() -> int:
    """Keys and values of all tokens, everything else of one a sequence."""
    return TOKENS * 4 * WIDTH**2 + BATCH * (20 * WIDTH**2 + 4 * LENGTH * WIDTH)


def classifier() -> int:
    return BATCH * (2 * WIDTH**2 + 2 * WIDTH * CLASSES)


def projections(number: int) -> int:
    return TOKENS * number * 2 * WIDTH**2


def bound(student: PreTrainedModel, teacher: PreTrainedModel, terms: Terms) -> tuple[Distillation, Frozen]:
    pair = Pair.of(Anatomy.of(student), Anatomy.of(teacher), task_of(student))
    frozen, distillation = Frozen(teacher), Distillation(student.train(), terms, pair)
    frozen.bind(distillation.needs().teacher)
    return distillation, frozen


def test_a_classifier_pays_for_one_row_of_its_last_layer() -> None:
    terms = Terms.of(0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels())
    kind = BertForSequenceClassification
    distillation, teacher = bound(bert(kind, 3), bert(kind, 6), terms)
    with FlopCounterMode(display=False) as taught:
        shown = teacher.activations(inputs())
    with FlopCounterMode(display=False) as trained:
        distillation(inputs(), shown, Counts((4.0, 4.0))).total.backward()
    assert taught.get_total_flops() == 5 * layer() + one_row() + classifier()
    assert trained.get_total_flops() == 3 * (2 * layer() + one_row() + classifier())


def test_relations_stop_both_models_at_their_projections() -> None:
    """The products of the relations themselves are not counted here."""
    distillation, teacher = bound(bert(BertModel, 3), bert(BertModel, 6), Terms.of(MiniLMv2(relation_heads=4)))
    with FlopCounterMode(display=False) as taught:
        teacher.activations(inputs())
    with FlopCounterMode(display=False) as trained:
        shown = distillation._capture(inputs())[1]
        (shown.queries[3] + shown.keys[3] + shown.values[3]).sum().backward()
    assert taught.get_total_flops() == 5 * layer() + projections(3)
    assert trained.get_total_flops() == 3 * (2 * layer() + projections(3))
    names = {name for name, parameter in distillation.student.named_parameters() if parameter.grad is None}
    assert names == {
        name
        for name, _ in distillation.student.named_parameters()
        if "layer.2.output" in name
        or "layer.2.attention.output" in name
        or "layer.2.intermediate" in name
        or "pooler" in name
    }


@pytest.mark.parametrize("field", ["queries", "hidden"])
def test_a_teacher_is_not_run_beyond_what_is_read(field: str) -> None:
    teacher = Frozen(bert(BertForSequenceClassification, 6))
    teacher.bind(frozenset({Signal(field, 4), Signal("hidden", 2)}))
    with FlopCounterMode(display=False) as counter:
        teacher.activations(inputs())
    assert counter.get_total_flops() == (4 * layer() if field == "hidden" else 3 * layer() + projections(1))
