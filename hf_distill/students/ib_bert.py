"""IB-BERT, the teacher of MobileBERT, as transformers classes of the model type `ib_bert`.

It is BERT-large whose blocks work 1024 wide and hand on 512-wide states, through a bottleneck turned inside out, so
that a MobileBERT of equal depth can imitate it block by block (Sun et al., 2020, arXiv:2004.02984). transformers'
MobileBERT cannot be configured to be it: with queries and keys that read the block's input it builds their
projections for the width inside the block, and the forward pass fails.

The classes are registered with `AutoConfig` and the `AutoModelFor…` classes when `hf_distill` is imported, so a
checkpoint loads wherever that happened. It carries no code of its own: without `hf_distill`, transformers says that it
does not know the model type. MobileBERT, the student that is published, is a plain transformers class.
"""

from __future__ import annotations

from typing import Any

import transformers
from torch import nn
from transformers import (
    MobileBertConfig,
    MobileBertForMaskedLM,
    MobileBertForMultipleChoice,
    MobileBertForNextSentencePrediction,
    MobileBertForPreTraining,
    MobileBertForQuestionAnswering,
    MobileBertForSequenceClassification,
    MobileBertForTokenClassification,
    MobileBertModel,
    MobileBertPreTrainedModel,
)
from transformers.models.mobilebert.modeling_mobilebert import MobileBertSelfAttention

from hf_distill.errors import DistillationError


class IBBertConfig(MobileBertConfig):  # type: ignore[misc]
    """MobileBERT's configuration with the published values of IB-BERT-large: 24 blocks of 4 heads, 1024 wide inside
    and 512 outside, one feed-forward network of 4096, layer norms, gelu, dropout 0.1, no dense layer before the
    classifier.

    Raises: `DistillationError` for the attention of MobileBERT or of MobileBERT-tiny, which reads a bottleneck.
    """

    model_type = "ib_bert"

    intermediate_size: int = 4096
    hidden_act: str = "gelu"
    hidden_dropout_prob: float | int = 0.1
    intra_bottleneck_size: int = 1024
    key_query_shared_bottleneck: bool = False
    num_feedforward_networks: int = 1
    normalization_type: str = "layer_norm"
    classifier_activation: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        given = [name for name in ("use_bottleneck_attention", "key_query_shared_bottleneck") if getattr(self, name)]
        if given:
            raise DistillationError(
                f"ib_bert: {given[0]} is true, but the queries, keys and values of IB-BERT read the block's input; "
                "leave it false, or use the model type 'mobilebert'."
            )


class IBBertPreTrainedModel(MobileBertPreTrainedModel):  # type: ignore[misc]
    """What the IB-BERT classes share: MobileBERT whose queries and keys read the block's input, as its values do.

    Every layer norm has the configuration's `layer_norm_eps`; in MobileBERT those of the embeddings and of the last
    feed-forward network keep torch's 1e-5.
    """

    config_class = IBBertConfig

    def post_init(self) -> None:
        """Rebuilds the projections before the weights are drawn and tied."""
        for module in self.modules():
            if isinstance(module, MobileBertSelfAttention):
                module.query = nn.Linear(self.config.hidden_size, module.all_head_size)
                module.key = nn.Linear(self.config.hidden_size, module.all_head_size)
            elif isinstance(module, nn.LayerNorm):
                module.eps = self.config.layer_norm_eps
        super().post_init()


class IBBertModel(IBBertPreTrainedModel, MobileBertModel):  # type: ignore[misc]
    """IB-BERT without a head."""


class IBBertForPreTraining(IBBertPreTrainedModel, MobileBertForPreTraining):  # type: ignore[misc]
    """IB-BERT with the heads of masked words and of the next sentence."""


class IBBertForMaskedLM(IBBertPreTrainedModel, MobileBertForMaskedLM):  # type: ignore[misc]
    """IB-BERT with the head of masked words."""


class IBBertForNextSentencePrediction(IBBertPreTrainedModel, MobileBertForNextSentencePrediction):  # type: ignore[misc]
    """IB-BERT with the head of the next sentence."""


class IBBertForSequenceClassification(IBBertPreTrainedModel, MobileBertForSequenceClassification):  # type: ignore[misc]
    """IB-BERT with a classifier of texts."""


class IBBertForTokenClassification(IBBertPreTrainedModel, MobileBertForTokenClassification):  # type: ignore[misc]
    """IB-BERT with a classifier of tokens."""


class IBBertForQuestionAnswering(IBBertPreTrainedModel, MobileBertForQuestionAnswering):  # type: ignore[misc]
    """IB-BERT with the ends of an answer."""


class IBBertForMultipleChoice(IBBertPreTrainedModel, MobileBertForMultipleChoice):  # type: ignore[misc]
    """IB-BERT with a score for each choice."""


AUTO_CLASSES: dict[str, type[IBBertPreTrainedModel]] = {
    "AutoModel": IBBertModel,
    "AutoModelForPreTraining": IBBertForPreTraining,
    "AutoModelForMaskedLM": IBBertForMaskedLM,
    "AutoModelForNextSentencePrediction": IBBertForNextSentencePrediction,
    "AutoModelForSequenceClassification": IBBertForSequenceClassification,
    "AutoModelForTokenClassification": IBBertForTokenClassification,
    "AutoModelForQuestionAnswering": IBBertForQuestionAnswering,
    "AutoModelForMultipleChoice": IBBertForMultipleChoice,
}
"""The auto class that loads each class."""

transformers.AutoConfig.register(IBBertConfig.model_type, IBBertConfig, exist_ok=True)
for _auto_class, _model_class in AUTO_CLASSES.items():
    getattr(transformers, _auto_class).register(IBBertConfig, _model_class, exist_ok=True)
