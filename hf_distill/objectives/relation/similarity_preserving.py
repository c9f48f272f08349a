"""Rows of similarities between the batch's texts."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import blank, unit
from hf_distill.objectives.batch_relations import BatchRelation, centered
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_flag
from hf_distill.pooling import SENTENCE
from hf_distill.tasks import Batch


@register("similarity_preserving")
class SimilarityPreserving(BatchRelation):
    """Similarity-preserving distillation (Tung & Mori, 2019, arXiv:1907.09682).

    L = 1/b^2 |G^student - G^teacher|_F^2, G the rows of A A^T, each divided by its length. A has a row for each text:
    its pooled vector, or with `flatten` the states of all its tokens one after another, zeros in padding; the product
    of two texts is then the sum over the positions that both have. The published weight is 3000. `center` takes the
    batch's mean off the vectors of each model first (no part of the paper; the gradient goes through it): texts whose
    vectors share a large offset are all alike without it.

    Reads: hidden[i] of both, [batch, length, width], pooled to [batch, width] (`pool`) unless `flatten`; widths may
    differ.  Counts: batches, of 2 examples or more (with `center` 3); a gradient is of the examples of a micro-batch
    alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token; `DistillationError` for `flatten` with `center`, `gather` or `pool="sentence"`.
    """

    smallest_batch = 2
    advised_batch = 16
    citation = """@inproceedings{tung2019similarity,
  title = {Similarity-Preserving Knowledge Distillation},
  author = {Tung, Frederick and Mori, Greg},
  booktitle = {ICCV},
  year = {2019},
  eprint = {1907.09682},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        flatten: bool = False,
        center: bool = False,
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        check_flag(self.name, "flatten", flatten)
        check_flag(self.name, "center", center)
        if flatten and (center or gather):
            other = "center" if center else "gather"
            raise DistillationError(
                f"{self.name}: flatten takes texts position by position, and {other} needs vectors of one width; set "
                f"{other}=False."
            )
        if flatten and pool == SENTENCE:
            raise DistillationError(
                f"{self.name}: flatten compares states of tokens, and pool='sentence' has one vector a text; set "
                "flatten=False, or another pool."
            )
        self.flatten = flatten
        self.center = center
        self.smallest_batch = 3 if center else 2  # two centred vectors are opposite, whatever they were

    def vectors(self, state: Tensor, target: Tensor, mask: Tensor, pair: int) -> tuple[Tensor, Tensor]:
        if not self.flatten:
            return super().vectors(state, target, mask, pair)
        return blank(state, mask).flatten(1), blank(target, mask).flatten(1)

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        ours, theirs = (self._rows(each) for each in (student, teacher))
        return (ours - theirs).square().mean()

    def _rows(self, vectors: Tensor) -> Tensor:
        given = centered(vectors) if self.center else vectors
        return unit(given @ given.mT)
