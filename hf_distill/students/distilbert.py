"""A student with DistilBERT's architecture, cut from a BERT."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    BertForMaskedLM,
    BertForMultipleChoice,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForMultipleChoice,
    DistilBertForQuestionAnswering,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    DistilBertModel,
    PreTrainedModel,
)

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.students.copying import copy_weights, finished, new, of_the_teacher, plain_copy
from hf_distill.students.layers import choose_all

logger = logging.getLogger(__name__)

MAKER = "as_distilbert"
TOKEN_TYPES = ("dropped", "folded")
"""What becomes of BERT's embedding of token types."""

CLASSES: Mapping[type[PreTrainedModel], type[PreTrainedModel]] = {
    BertModel: DistilBertModel,
    BertForMaskedLM: DistilBertForMaskedLM,
    BertForSequenceClassification: DistilBertForSequenceClassification,
    BertForTokenClassification: DistilBertForTokenClassification,
    BertForQuestionAnswering: DistilBertForQuestionAnswering,
    BertForMultipleChoice: DistilBertForMultipleChoice,
}

BLOCK = {
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
"""Modules of DistilBERT's block by the names of those of BERT's."""

OUTSIDE = {
    "embeddings.word_embeddings": "embeddings.word_embeddings",
    "embeddings.position_embeddings": "embeddings.position_embeddings",
    "embeddings.LayerNorm": "embeddings.LayerNorm",
    "vocab_transform": "cls.predictions.transform.dense",
    "vocab_layer_norm": "cls.predictions.transform.LayerNorm",
    "vocab_projector": "cls.predictions.decoder",
    "pre_classifier": "pooler.dense",
    "classifier": "classifier",
    "qa_outputs": "qa_outputs",
}
"""The same outside the blocks."""

SETTINGS = {
    "vocab_size": "vocab_size",
    "max_position_embeddings": "max_position_embeddings",
    "dim": "hidden_size",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "activation": "hidden_act",
    "initializer_range": "initializer_range",
    "pad_token_id": "pad_token_id",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "tie_word_embeddings": "tie_word_embeddings",
    "id2label": "id2label",
    "label2id": "label2id",
    "problem_type": "problem_type",
}
"""Entries of DistilBERT's configuration by the names of those of BERT's."""


def as_distilbert(
    teacher: nn.Module,
    layers: int | Sequence[int] = 6,
    pick: str | None = None,
    *,
    token_types: Literal["dropped", "folded"] = "dropped",
) -> PreTrainedModel:
    """A DistilBERT with copies of chosen layers of a BERT, of its embeddings and of its head (Sanh et al., 2019,
    arXiv:1910.01108).

    `layers` and `pick` choose as in `from_layers`; a number without a `pick` is the published choice, `distilbert`: 1,
    3, 5, 8, 10, 12 of 12.
    DistilBERT has neither token types nor a pooler. `token_types` says what becomes of BERT's embedding of them:
    `dropped`, as in the published extraction, or `folded`, which adds that of the first segment to every position.
    BERT adds it to every token of a single text, so with `folded` and all layers kept the hidden states of single
    texts are the teacher's; `dropped` shifts them by a vector that training has to make up for. A second segment
    reads as the first in both.

    The classifier of sequences reads the first token's state through a dense layer and a ReLU in DistilBERT, through
    the pooler's dense layer and a tanh in BERT: both dense layers are copied, but the logits are the teacher's in no
    case. The other heads compute the same.

    The student is a plain transformers class in float32 and in eval mode, on the teacher's device. Dropout before
    the classifier is the teacher's `classifier_dropout` where it has one, else DistilBERT's default. DistilBERT's
    norms use an epsilon of 1e-12; another `layer_norm_eps` is told in the log. An adapter is merged first, into a
    copy.

    Raises: `IncompatiblePair` for a teacher that is none of `CLASSES`, is a decoder, or is quantized; for layers that
    cannot be chosen; for another `token_types`.
    """
    if token_types not in TOKEN_TYPES:
        raise IncompatiblePair(f"{MAKER}: token_types must be {' or '.join(TOKEN_TYPES)}, not {token_types!r}.")
    base = plain_copy(teacher, MAKER)
    _check(base)
    pick = pick or ("distilbert" if isinstance(layers, int) else "spread")
    layers_kept = choose_all(Anatomy.of(base), layers, pick, maker=MAKER)[""]
    with torch.random.fork_rng(devices=[]):
        student = new(CLASSES[type(base)], _config(base, len(layers_kept)), base)
    sources = {name: _source(name, layers_kept, base) for name in student.state_dict()}
    tensors = of_the_teacher(base, student.state_dict(), sources, MAKER)
    if token_types == "folded":
        _fold(tensors, base)
    copy_weights(student, base, sources, tensors)
    return finished(student, base)


def _check(base: PreTrainedModel) -> None:
    if type(base) not in CLASSES:
        known = ", ".join(kind.__name__ for kind in CLASSES)
        raise IncompatiblePair(f"{MAKER}: a {type(base).__name__} cannot become a DistilBERT; only {known} can.")
    if base.config.is_decoder or base.config.add_cross_attention:
        raise IncompatiblePair(f"{MAKER}: the teacher is a decoder, and DistilBERT's attention looks both ways.")
    if base.config.layer_norm_eps != 1e-12:
        logger.warning(
            "as_distilbert: layer_norm_eps of the teacher is %g, DistilBERT's is 1e-12; states will differ slightly",
            base.config.layer_norm_eps,
        )


def _config(base: PreTrainedModel, depth: int) -> DistilBertConfig:
    config = base.config
    settings: dict[str, Any] = {mine: getattr(config, theirs) for mine, theirs in SETTINGS.items()}
    if config.classifier_dropout is not None:
        settings["seq_classif_dropout"] = config.classifier_dropout
    made = DistilBertConfig(n_layers=depth, dtype=torch.float32, **settings)
    made._attn_implementation = config._attn_implementation
    return made


def _source(name: str, layers: Sequence[int], base: PreTrainedModel) -> str:
    """The teacher's name of an entry of the student's state."""
    module, _, tensor = name.removeprefix("distilbert.").rpartition(".")
    if module.startswith("transformer.layer."):
        number, _, inner = module.removeprefix("transformer.layer.").partition(".")
        inside = f"encoder.layer.{layers[int(number)] - 1}.{BLOCK[inner]}"
    else:
        inside = OUTSIDE[module]
    is_backbone = inside.startswith(("encoder.", "embeddings.", "pooler."))
    prefix = "bert." if is_backbone and base.base_model is not base else ""
    return f"{prefix}{inside}.{tensor}"


def _fold(tensors: dict[str, Tensor], base: PreTrainedModel) -> None:
    """Adds the first token type's embedding to every position's."""
    name = next(name for name in tensors if name.endswith("position_embeddings.weight"))
    first = base.base_model.get_submodule("embeddings.token_type_embeddings").get_parameter("weight")[0]
    tensors[name] = tensors[name].to(torch.float32) + first.detach().to(torch.float32)
