"""The vectors of sentences, near the teacher's."""

from __future__ import annotations

from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.losses import mean_squared_difference
from hf_distill.objectives.registry import register
from hf_distill.objectives.sentence_vectors import MULTILINGUAL, SentencePairs
from hf_distill.tasks import Batch


@register("embedding_mse")
class EmbeddingMSE(SentencePairs):
    """The mean squared error of sentence vectors (Reimers & Gurevych, 2020, arXiv:2004.09813), for texts in one
    language; `multilingual_mse` has translations as well.

    L = (1/D) sum_d (u_d - v_d)^2 of each text, u and v the vectors of student and teacher, of width D: pooled and
    normalised as each model does it. `projection` is what becomes of two widths: the teacher's principal components
    (`pca`, of its vectors of `pca_texts` training texts), as in the model distillation of sentence-transformers; a
    map that is learned and dropped (`learned`); or an error (`none`).

    Reads: sentence of both, [batch, width].  Counts: texts.
    Errors: `IncompatiblePair` for models that are no sentence encoders, and for widths that the projection does not
    fit; `DataError` for fewer texts than a projection has dimensions.
    """

    citation = MULTILINGUAL

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        return mean_squared_difference(*self.matched(student, teacher)).sum()
