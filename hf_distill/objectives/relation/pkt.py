"""Similarities of the batch's texts as probabilities."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.losses import safe_sqrt
from hf_distill.objectives.batch_relations import BatchRelation, centered, cosines, off_diagonal
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_flag
from hf_distill.tasks import Batch


@register("pkt")
class PKT(BatchRelation):
    """Probabilistic knowledge transfer (Passalis & Tefas, 2018, arXiv:1803.10837).

    L = sum_i sum_{j != i} p_ij log(p_ij / q_ij), with p_ij = K_ij / sum_{m != i} K_im of the teacher's vectors and q
    of the student's, K_ij = (cos(x_i, x_j) + 1) / 2. q is at least 1e-12 in the logarithm, and 0 log 0 is 0.

    `form="code"` is what the authors' code does: the diagonal stays, the sum becomes a mean over b^2 entries of
    p log((p + 1e-7) / (q + 1e-7)), and norms get 1e-7 more. Published weights (30000) belong to it. `center` takes
    the batch's mean off the vectors of each model first (no part of the paper; the gradient goes through it): texts
    whose vectors share a large offset have cosines near 1, and without it the value says nothing of them.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 3 examples or
    more; a gradient is of the examples of a micro-batch alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token.
    """

    smallest_batch = 3
    advised_batch = 16
    citation = """@inproceedings{passalis2018learning,
  title = {Learning Deep Representations with Probabilistic Knowledge Transfer},
  author = {Passalis, Nikolaos and Tefas, Anastasios},
  booktitle = {ECCV},
  year = {2018},
  eprint = {1803.10837},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        center: bool = False,
        form: str = "paper",
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        check_flag(self.name, "center", center)
        check_choice(self.name, "form", form, ("paper", "code"))
        self.center = center
        self.form = form

    @property
    def equation(self) -> str:
        laws = "p and q the rows of (cos(x_i, x_j) + 1) / 2 over their sums, the teacher's and the student's"
        if self.form == "code":
            return f"L = (1/b^2) sum_ij p_ij log((p_ij + 1e-7) / (q_ij + 1e-7)), {laws}, with the diagonal"
        return f"L = sum_i sum_(j != i) p_ij log(p_ij / q_ij), {laws}, without the diagonal"

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        theirs = off_diagonal(cosines(teacher, center=self.center))
        self.remark(
            theirs.amax() - theirs.amin() < 1e-3,
            "the teacher's vectors have nearly the same cosine for all pairs of texts, which says nothing of them; "
            "set center=True.",
        )
        if self.form == "code":
            p, q = (_code_laws(centered(each) if self.center else each) for each in (teacher, student))
            return (p * ((p + 1e-7).log() - (q + 1e-7).log())).mean()
        p, q = _laws(theirs), _laws(off_diagonal(cosines(student, center=self.center)))
        return (torch.xlogy(p, p) - p * q.clamp(min=1e-12).log()).sum()


def _laws(cosine: Tensor) -> Tensor:
    """The rows of (cos + 1) / 2 over their sums; 0 where a sum is 0, all other vectors being opposite."""
    kernel = (cosine + 1.0).clamp(min=0.0) / 2.0
    sums = kernel.sum(-1, keepdim=True)
    return kernel / torch.where(sums > 0, sums, 1.0)


def _code_laws(vectors: Tensor) -> Tensor:
    units = vectors / (safe_sqrt(vectors.square().sum(-1, keepdim=True)) + 1e-7)
    kernel = (units @ units.mT + 1.0) / 2.0
    return kernel / kernel.sum(-1, keepdim=True)
