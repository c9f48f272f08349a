"""Angles between the batch's texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.objectives.batch_relations import BatchRelation, distances
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch


@register("rkd_angle")
class RKDAngle(BatchRelation):
    """Relational knowledge distillation, angles (Park, Kim, Lu & Cho, 2019, arXiv:1904.05068).

    L = sum over ordered triples (i, j, k) of three different examples of h(c_ijk^student - c_ijk^teacher), c_ijk the
    cosine of the angle at x_j, <e_ij, e_kj> with e_ij = (x_i - x_j) / |x_i - x_j|, h(r) = r^2 / 2 up to |r| = 1 and
    |r| - 1/2 beyond. Where x_i or x_k equals x_j, the cosine is 0 and has no gradient; vectors are equal that are
    apart by rounding alone (32 times that of the longest), as those of one text are in batches of other lengths.

    Cosines come from the three distances of a triple, c = (d_ij^2 + d_kj^2 - d_ik^2) / (2 d_ij d_kj): b^2 d + b^3
    operations and b^3 numbers for b examples of width d.

    `form="code"` sums over all triples and divides by b^3, as the authors' code does, which published weights belong
    to (2 for metric learning, 50 for classification); i = k then adds something where two examples are equal in one
    model alone.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 3 examples or
    more; a gradient is of the examples of a micro-batch alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token.
    """

    smallest_batch = 3
    citation = """@inproceedings{park2019relational,
  title = {Relational Knowledge Distillation},
  author = {Park, Wonpyo and Kim, Dongju and Lu, Yan and Cho, Minsu},
  booktitle = {CVPR},
  year = {2019},
  eprint = {1904.05068},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        form: str = "paper",
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        check_choice(self.name, "form", form, ("paper", "code"))
        self.form = form

    @property
    def equation(self) -> str:
        over = "(1/b^3) sum_ijk" if self.form == "code" else "sum over three different examples i, j, k of"
        return f"L = {over} h(c_ijk^student - c_ijk^teacher), c_ijk the cosine of the angle at x_j, h Huber's loss"

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        values = functional.smooth_l1_loss(_angles(student), _angles(teacher), reduction="none")
        if self.form == "code":
            return values.mean()
        apart = 1.0 - torch.eye(len(student), dtype=values.dtype, device=values.device)
        return (values * apart).sum()


def _angles(vectors: Tensor) -> Tensor:
    """The cosine at x_j between the directions to x_i and x_k, `[j, i, k]`."""
    apart, length = distances(vectors), vectors.detach().norm(dim=-1).amax()
    differ = apart > 32.0 * torch.finfo(vectors.dtype).eps * length
    inverse = torch.where(differ, 1.0 / torch.where(differ, apart, 1.0), 0.0)
    squares = apart.square()
    opposite = squares[:, :, None] + squares[:, None, :] - squares
    return (opposite * (inverse[:, :, None] * inverse[:, None, :] / 2.0)).clamp(-1.0, 1.0)
