"""Models without a head."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import DataError
from hf_distill.tasks.base import Batch, Task


class Encoder(Task):
    """A model without a head: hidden states, and what relations are made of them. There are no logits and no labels.

    Objectives that read either are refused, and an evaluation gives the value of the objectives themselves.
    """

    name = "encoder"
    label_names = ()
    logit_fields = ()
    auto_class = "AutoModel"
    pipeline_tag = "feature-extraction"

    def labels(self, batch: Batch) -> tuple[Tensor, ...]:
        raise DataError(
            "encoder: a model without a head has no labels; load it with a head (AutoModelFor…), or take objectives "
            "of hidden states and relations alone."
        )


class Embeddings(Task):
    """One vector a text, `sentence` `[batch, width]`, as `hf_distill.sentences` makes it: a sentence encoder. There
    are no logits and no labels; what is evaluated are the vectors.
    """

    name = "embeddings"
    label_names = ()
    logit_fields = ()
    shown_fields = ("sentence",)
    auto_class = "AutoModel"
    pipeline_tag = "sentence-similarity"

    def labels(self, batch: Batch) -> tuple[Tensor, ...]:
        raise DataError(
            "embeddings: a sentence encoder has no labels; take objectives of sentence vectors (embedding_mse), of "
            "hidden states, or of relations."
        )
