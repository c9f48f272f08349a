"""Distances between the batch's texts."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.objectives.batch_relations import BatchRelation, distances, off_diagonal
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch


@register("rkd_distance")
class RKDDistance(BatchRelation):
    """Relational knowledge distillation, distances (Park, Kim, Lu & Cho, 2019, arXiv:1904.05068).

    L = sum_{i != j} h(psi_ij^student - psi_ij^teacher), psi_ij = |x_i - x_j| / mu, mu the mean of |x_i - x_j| over all
    i != j, h(r) = r^2 / 2 up to |r| = 1 and |r| - 1/2 beyond. The gradient goes through the student's mu. Equal
    vectors have the distance 0, count in mu, and get no gradient; where all are equal, psi is 0.

    `form="code"` divides by b^2, as the authors' code does, which published weights belong to (1 for metric learning,
    25 for classification). Their code puts 1e-6 for a distance of 0, and makes unit vectors of the teacher's alone.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 3 examples or
    more (two have the one distance 1); a gradient is of the examples of a micro-batch alone, or with `gather` of those
    of all processes.
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
        over = "(1/b^2) sum" if self.form == "code" else "sum"
        distance = "psi_ij = |x_i - x_j| over its mean"
        return f"L = {over}_(i != j) h(psi_ij^student - psi_ij^teacher), {distance}, h Huber's loss"

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        ours, theirs = _relative(student), _relative(teacher)
        self.remark(
            ~ours.any(),
            "all vectors of the student are equal: it has collapsed, and distances give it no gradient any more.",
        )
        total = functional.smooth_l1_loss(ours, theirs, reduction="sum")
        return total / len(student) ** 2 if self.form == "code" else total


def _relative(vectors: Tensor) -> Tensor:
    """psi of all pairs i != j, `[examples, examples - 1]`."""
    apart = off_diagonal(distances(vectors))
    mean = apart.mean()
    return apart / torch.where(mean > 0, mean, 1.0)
