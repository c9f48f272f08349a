"""What objectives share that compare the order of a batch's texts, by their distance from each of them."""

from __future__ import annotations

import sys
from itertools import permutations
from math import inf

import torch
from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import unit
from hf_distill.objectives.batch_relations import BatchRelation, distances
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.settings import check_flag, check_number
from hf_distill.tasks import Batch


class Ranking(BatchRelation):
    """Compares the probabilities of orders of texts, every text of the batch being the query once.

    The score of a text x for the query q is S(x) = -alpha |x - q|^beta, and an order pi of some of them has the
    probability P(pi) = prod_i exp S(x_pi(i)) / sum_{m >= i} exp S(x_pi(m)). Ordered are the `length` texts that are
    nearest to the query in the teacher, nearest first, equal ones as they stand in the batch; the query itself is left
    out. A subclass writes `divergence`.
    """

    smallest_batch = 3
    longest: int

    def __init__(
        self,
        *,
        layer_map: Layers | None,
        pool: str,
        alpha: float,
        beta: float,
        length: int,
        normalize: bool,
        gather: bool,
        stack: str,
    ) -> None:
        super().__init__(layer_map=layer_map, pool=pool, gather=gather, stack=stack)
        check_number(self.name, "alpha", alpha, 0.0, sys.float_info.max, open_low=True)
        check_number(self.name, "beta", beta, 1.0, 100.0)
        check_flag(self.name, "normalize", normalize)
        if isinstance(length, bool) or not isinstance(length, int) or not 2 <= length <= self.longest:
            raise DistillationError(
                f"{self.name}: length is {length!r}; it must be a whole number from 2 to {self.longest}."
            )
        self.alpha = alpha
        self.beta = beta
        self.length = length
        self.normalize = normalize

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """One value a query, of the scores of its list, `[queries, length]` twice, in the teacher's order."""
        raise NotImplementedError

    def relation(self, student: Tensor, teacher: Tensor, batch: Batch) -> Tensor:
        ours, theirs = (self._scores(each) for each in (student, teacher))
        self.remark(
            theirs.abs().amax() > 50.0,
            "scores of the teacher are beyond 50, so that one order has all the probability; set normalize=True, or a "
            "smaller alpha.",
        )
        itself = torch.eye(len(teacher), dtype=torch.bool, device=teacher.device)
        nearest = theirs.masked_fill(itself, -inf).sort(dim=-1, descending=True, stable=True).indices
        listed = nearest[:, : min(self.length, len(teacher) - 1)]
        return self.divergence(ours.gather(1, listed), theirs.gather(1, listed)).mean()

    def _scores(self, vectors: Tensor) -> Tensor:
        """S of all pairs, `[queries, examples]`."""
        return -self.alpha * distances(unit(vectors) if self.normalize else vectors).pow(self.beta)


def log_probability(scores: Tensor) -> Tensor:
    """log P of the order in which the scores stand, `[..., length]` to `[...]`."""
    return (scores - scores.flip(-1).logcumsumexp(-1).flip(-1)).sum(-1)


def orders(longest: int) -> Tensor:
    """All orders of `longest` things, `[longest!, longest]`."""
    return torch.tensor(list(permutations(range(longest))))
