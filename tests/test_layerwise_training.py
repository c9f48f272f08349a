"""Layer-by-layer objectives in the trainer: the same steps however the batch is cut or padded."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertForPreTraining

from hf_distill import (
    PKD,
    AttentionKL,
    AttentionMSE,
    DistillationTrainer,
    FeatureMapTransfer,
    HiddenMSE,
    NextSentence,
    PretrainingDistillation,
)
from hf_distill.objectives import Terms
from tests import tiny

TOLERANCE = 1e-6


def tinybert() -> Terms:
    """Embeddings, hidden states and scores."""
    return HiddenMSE(layer_map="uniform", projection="per_level", layer_reduction="sum") + 0.1 * AttentionMSE()


def mobilebert() -> Terms:
    """Feature maps, attention, words and sentence pairs at once."""
    maps = FeatureMapTransfer(layer_map="uniform", normalized_weight=0.5, mean_weight=1.0, variance_weight=0.1)
    return maps + AttentionKL() + PretrainingDistillation() + NextSentence()


def patient() -> Terms:
    return PKD() + PretrainingDistillation(alpha=1.0)


RECIPES = {"tinybert": (tinybert, 48), "mobilebert": (mobilebert, 32), "pkd": (patient, 32)}
"""The terms and the teacher's width."""


class Pad(tiny.Pad):
    """A collator that also keeps the sentence labels, one an example."""

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        sentences = torch.tensor([row["next_sentence_label"] for row in rows])
        words = [{name: cell for name, cell in row.items() if name != "next_sentence_label"} for row in rows]
        return {**super().__call__(words), "next_sentence_label": sentences}


def model(layers: int, hidden: int, seed: int) -> BertForPreTraining:
    """A random model with uneven norms: fresh ones give every state the variance 1, and |1 - 1| has no direction."""
    torch.manual_seed(seed)
    made = BertForPreTraining(tiny.model("masked_lm", layers, hidden, seed).config)
    for name, parameter in made.named_parameters():
        if "LayerNorm.weight" in name:
            torch.nn.init.normal_(parameter, 1.0, 0.2)
    return made


def trained(recipe: str, extra_padding: int = 0, **settings: object) -> DistillationTrainer:
    """Four SGD steps from the same start."""
    terms, width = RECIPES[recipe]
    torch.manual_seed(0)
    rows = [{**row, "next_sentence_label": (i % 3) % 2} for i, row in enumerate(tiny.rows("masked_lm"))]
    trainer = DistillationTrainer(
        model=model(2, 32, 1), teacher=model(4, width, 2), objectives=terms(), args=tiny.arguments(**settings),
        train_dataset=rows, data_collator=Pad(extra_padding),
    )  # fmt: skip
    trainer.train()
    return trainer


@pytest.mark.parametrize("recipe", RECIPES)
def test_micro_batches_and_padding_do_not_matter(recipe: str) -> None:
    whole = trained(recipe)
    assert tiny.distance(whole.model, model(2, 32, 1)) > 1e-3, "the run must move the weights"
    for name, other in {
        "2 x 4": trained(recipe, per_device_train_batch_size=2, gradient_accumulation_steps=4),
        "11 more columns": trained(recipe, extra_padding=11),
    }.items():
        assert tiny.distance(whole.distillation, other.distillation) < TOLERANCE, name
        losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (whole, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5), name


def test_a_student_of_other_heads_is_refused_before_training() -> None:
    student = model(2, 32, 1)
    student.config.num_attention_heads = 4
    with pytest.raises(ValueError, match="the student has 4 attention heads, the teacher 2"):
        DistillationTrainer(
            model=BertForPreTraining(student.config), teacher=model(4, 32, 2), objectives=AttentionMSE(),
            args=tiny.arguments(), train_dataset=tiny.rows("masked_lm"), data_collator=tiny.Pad(),
        )  # fmt: skip


def test_a_student_without_a_sentence_head_is_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"BertForMaskedLM has no next-sentence head.*leave the term out"):
        DistillationTrainer(
            model=tiny.model("masked_lm"), objectives=PretrainingDistillation() + NextSentence(),
            teacher=tiny.model("masked_lm", layers=4), args=tiny.arguments(),
            train_dataset=tiny.rows("masked_lm"), data_collator=tiny.Pad(),
        )  # fmt: skip
