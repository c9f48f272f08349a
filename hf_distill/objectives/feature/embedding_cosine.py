"""The directions of the vectors of sentences, near the teacher's."""

from __future__ import annotations

from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.losses import unit
from hf_distill.objectives.registry import register
from hf_distill.objectives.sentence_vectors import SentencePairs
from hf_distill.tasks import Batch


@register("embedding_cosine")
class EmbeddingCosine(SentencePairs):
    """The cosine distance of sentence vectors (Zhang, Li, Zeng & Wang, 2024, arXiv:2412.19048, their cosine loss).

    L = 1 - u v / (|u| |v|) of each text, u and v the vectors of student and teacher: pooled as each model does it,
    whether or not they are normalised. Between vectors of length 1 it is half of D times `embedding_mse`, and so of a
    size that does not depend on the width D. `projection` is what becomes of two widths: the teacher's principal
    components (`pca`, of its vectors of `pca_texts` training texts), a map that is learned and dropped (`learned`),
    or an error (`none`). A vector 0 has the cosine 0 with all others.

    Reads: sentence of both, [batch, width].  Counts: texts.
    Errors: `IncompatiblePair` for models that are no sentence encoders, and for widths that the projection does not
    fit; `DataError` for fewer texts than a projection has dimensions.
    """

    citation = """@article{zhang2024jasper,
  title = {Jasper and Stella: Distillation of {SOTA} Embedding Models},
  author = {Zhang, Dun and Li, Jiacheng and Zeng, Ziyang and Wang, Fulong},
  journal = {arXiv preprint},
  year = {2024},
  eprint = {2412.19048},
  archivePrefix = {arXiv}
}"""

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        ours, theirs = self.matched(student, teacher)
        return (1.0 - (unit(ours) * unit(theirs)).sum(-1)).sum()
