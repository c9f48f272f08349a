"""Correlations between the batch's texts."""

from __future__ import annotations

import math
import sys

from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.objectives.batch_relations import BatchRelation, cosines
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_flag, check_number
from hf_distill.tasks import Batch


@register("correlation_congruence")
class CorrelationCongruence(BatchRelation):
    """Correlation congruence (Peng, Jin, Liu, Zhou, Wu, Liu, Li & Zhang, 2019, arXiv:1904.01802).

    L = 1/b^2 sum_ij (C_ij^teacher - C_ij^student)^2. `kernel="gaussian"`: C_ij = sum_{p=0}^{order} exp(-2 gamma)
    (2 gamma)^p / p! <x_i, x_j>^p of unit vectors, the first terms of exp(-gamma |x_i - x_j|^2). `kernel="bilinear"`:
    C_ij = <x_i, x_j> of unit vectors; whether the paper makes unit vectors there, too, could not be confirmed, and
    without them the larger of two widths would decide. `center` takes the batch's mean off the vectors of each model
    first (no part of the paper; the gradient goes through it). The paper draws batches by class or cluster; here they
    are those of the trainer.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 2 examples or
    more (with `center` 3); a gradient is of the examples of a micro-batch alone, or with `gather` of those of all
    processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token.
    """

    smallest_batch = 2
    advised_batch = 16
    citation = """@inproceedings{peng2019correlation,
  title = {Correlation Congruence for Knowledge Distillation},
  author = {Peng, Baoyun and Jin, Xiao and Liu, Jiaheng and Zhou, Shunfeng and Wu, Yichao and Liu, Yu and Li, Dongsheng
            and Zhang, Zhaoning},
  booktitle = {ICCV},
  year = {2019},
  eprint = {1904.01802},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        kernel: str = "gaussian",
        gamma: float = 0.4,
        order: int = 2,
        center: bool = False,
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        check_choice(self.name, "kernel", kernel, ("gaussian", "bilinear"))
        check_number(self.name, "gamma", gamma, 0.0, sys.float_info.max, open_low=True)
        check_flag(self.name, "center", center)
        if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= 20:
            raise DistillationError(f"{self.name}: order is {order!r}; it must be a whole number from 1 to 20.")
        self.kernel = kernel
        self.gamma = gamma
        self.order = order
        self.center = center
        self.smallest_batch = 3 if center else 2  # two centred vectors are opposite, whatever they were

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        ours, theirs = (self._correlations(cosines(each, center=self.center)) for each in (student, teacher))
        return (theirs - ours).square().mean()

    def _correlations(self, cosine: Tensor) -> Tensor:
        if self.kernel == "bilinear":
            return cosine
        rate = 2.0 * self.gamma
        factors = [math.exp(-rate) * rate**p / math.factorial(p) for p in range(self.order + 1)]
        total = cosine * factors[-1]
        for factor in factors[-2:0:-1]:
            total = (total + factor) * cosine
        return total + factors[0]
