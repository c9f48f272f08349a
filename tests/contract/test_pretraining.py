"""What is special to pre-training distillation: words, the teacher's guesses, and sentence pairs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.distillation import Distillation
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import NextSentence, Objective, Pair, PretrainingDistillation, Terms
from hf_distill.taps.signals import tap_of
from hf_distill.tasks import IGNORED, TASKS, task_of
from tests.shapes import shape
from tests.tiny_models import batch as model_batch
from tests.tiny_models import tiny

TASK = TASKS["masked_lm"]
LABELS = torch.tensor([[IGNORED, 2, IGNORED, 4], [1, IGNORED, IGNORED, IGNORED]])
BATCH = {"input_ids": torch.zeros_like(LABELS), "labels": LABELS}


def bound(objective: Objective, task: str = "masked_lm") -> Objective:
    objective.bind(Pair.from_shapes(shape(), shape(), TASKS[task]))
    return objective


def value(objective: Objective, student: Tensor, teacher: Tensor) -> float:
    return float(objective(Activations(logits=student), Activations(logits=teacher), BATCH))


# ---- words ----


@pytest.mark.parametrize(("alpha", "temperature"), [(0.5, 1.0), (0.2, 3.0), (0.0, 2.0), (1.0, 1.0)])
def test_it_is_the_mixture_of_labels_and_soft_targets(alpha: float, temperature: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(2, 2, 4, 5, generator=generator, dtype=torch.float64)
    soft = {"kind": "cross_entropy", "temperature": temperature, "tokens": "masked"}
    parts = [value(bound(objectives.make(*part)), *sides) for part in (("labels", {}), ("soft_targets", soft))]
    mixed = bound(PretrainingDistillation(alpha=alpha, temperature=temperature))
    assert value(mixed, *sides) == pytest.approx(alpha * parts[0] + (1 - alpha) * parts[1], rel=1e-12)
    assert int(mixed.count(BATCH, TASK)) == 3


def test_only_tasks_that_predict_words_have_it() -> None:
    for task in ("masked_lm", "causal_lm", "seq2seq_lm"):
        bound(PretrainingDistillation(), task)
    with pytest.raises(IncompatiblePair, match=r"a single_label task predicts no words; use alpha \* labels"):
        bound(PretrainingDistillation(), "single_label")


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"alpha": 1.5}, "alpha is 1.5"), ({"temperature": 0}, "temperature is 0; it must be a number above 0")],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        PretrainingDistillation(**settings)


def test_label_smoothing_is_refused_rather_than_ignored() -> None:
    smoothed = Pair.from_shapes(shape(), shape(), TASK, label_smoothing=0.1)
    with pytest.raises(IncompatiblePair, match=r"smoothing of 0.1 .*no part.*label_smoothing_factor=0"):
        PretrainingDistillation().bind(smoothed)


@pytest.mark.parametrize("labels", [LABELS[:, :3], LABELS.double()])
def test_labels_that_do_not_fit_the_logits(labels: Tensor) -> None:
    logits = torch.zeros(2, 4, 5)
    with pytest.raises(DataError, match=r"labels of (shape \(2, 3\)|torch.float64) for a? ?masked_lm"):
        bound(PretrainingDistillation()).rows(logits, logits, labels)


# ---- sentence pairs ----


def test_next_sentence_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [5.0, 1.0], [0.0, 0.0]], requires_grad=True)
    batch = {"next_sentence_label": torch.tensor([1, IGNORED, 0])}
    objective = bound(NextSentence())
    found = objective(Activations(next_sentence_logits=logits), None, batch)
    assert float(found.detach()) == pytest.approx(-math.log(0.75) - math.log(0.5), rel=1e-6)
    assert int(objective.count(batch, TASK)) == 2
    found.backward()
    assert logits.grad is not None
    assert not logits.grad[1].any()


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"input_ids": LABELS}, "no column 'next_sentence_label', only input_ids"),
        ({"next_sentence_label": LABELS}, r"shape \(2, 4\) and holds torch.int64; it must be one whole number"),
        ({"next_sentence_label": torch.zeros(2)}, r"holds torch.float32"),
    ],
)
def test_next_sentence_labels_that_are_none(batch: dict[str, Tensor], words: str) -> None:
    with pytest.raises(DataError, match=words):
        bound(NextSentence()).count(batch, TASK)


def test_other_tasks_have_no_sentence_pairs() -> None:
    with pytest.raises(IncompatiblePair, match="a causal_lm student has no next-sentence head"):
        bound(NextSentence(), "causal_lm")


# ---- models ----


def pretraining_model(family: str) -> PreTrainedModel:
    return tiny(family, "AutoModelForPreTraining", layers=2)


@pytest.mark.parametrize("family", ["bert", "mobilebert"])
def test_the_loss_of_a_pretraining_model_is_words_plus_sentences(family: str) -> None:
    """With alpha 1 the two objectives are what the model's own loss is."""
    model, inputs = pretraining_model(family), model_batch(family)
    inputs["labels"] = torch.where(inputs["attention_mask"].bool(), inputs["input_ids"], IGNORED)
    inputs["next_sentence_label"] = torch.arange(len(inputs["input_ids"])) % 2
    anatomy = Anatomy.of(model)
    assert task_of(model) is TASK
    parts: list[Objective] = [PretrainingDistillation(alpha=1.0), NextSentence()]
    total = 0.0
    for objective in parts:
        objective.bind(Pair.of(anatomy, anatomy, TASK))
        shown = Capture(anatomy, objective.needs().student, role="student")(inputs)[1]
        total += float(objective(shown, shown, inputs).detach() / objective.count(inputs, TASK))
    assert total == pytest.approx(float(model(**inputs).loss.detach()), rel=1e-5)


def test_the_sentence_head_is_reached_by_its_own_term_alone() -> None:
    """What no term reaches is frozen, or an engine would wait for its gradients."""
    model = pretraining_model("bert")
    head = {name for name, _ in model.named_parameters() if "pooler" in name or "seq_relationship" in name}
    pair = Pair.of(Anatomy.of(model), Anatomy.of(model), TASK)
    words: Terms = Terms.of(PretrainingDistillation())
    for terms, expected in ((words, head), (words + NextSentence(), set())):
        unreached = {id(parameter) for parameter in Distillation(model, terms, pair).unreached()}
        assert {name for name, parameter in model.named_parameters() if id(parameter) in unreached} == expected


@pytest.mark.parametrize("head", ["AutoModelForMaskedLM", "AutoModelForNextSentencePrediction"])
def test_a_model_without_both_heads_has_no_next_sentence_logits(head: str) -> None:
    anatomy = Anatomy.of(tiny("bert", head))
    with pytest.raises(IncompatiblePair, match=r"next_sentence_logits: Bert.* has no next-sentence head"):
        Capture(anatomy, NextSentence.needs(bound(NextSentence())).student, role="student")


def test_a_detector_of_replaced_words_predicts_none() -> None:
    with pytest.raises(IncompatiblePair, match="no task is known for ElectraForPreTraining"):
        task_of(pretraining_model("electra"))
    with pytest.raises(IncompatiblePair, match="has no next-sentence head"):
        tap_of(Anatomy.of(pretraining_model("electra")), next(iter(bound(NextSentence()).needs().student)))
