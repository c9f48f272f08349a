"""The probabilities of all orders of the batch's nearest texts."""

from __future__ import annotations

from torch import Tensor

from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.rankings import Ranking, log_probability, orders
from hf_distill.objectives.registry import register


@register("darkrank_soft")
class DarkRankSoft(Ranking):
    """DarkRank, soft transfer (Chen, Wang & Zhang, 2018, arXiv:1707.01220).

    L = mean over queries of KL(P_teacher || P_student) over all orders of the `length` texts that are nearest to the
    query in the teacher: length! of them, 24 for 4 and 720 for 6, the most that are taken. log P(pi) = sum_i (S_pi(i)
    - log sum_{m >= i} exp S_pi(m)), S(x) = -alpha |x - query|^beta. A shorter batch has a list of all its other texts.

    `normalize` makes unit vectors first (no part of the paper, whose authors' code takes such vectors with alpha
    12.25, beta 4 and a weight of 16). The paper takes the first example of a batch as the query; here every example is
    one.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 3 examples or
    more; a gradient is of the examples of a micro-batch alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token; `DistillationError` for a length above 6.
    """

    longest = 6
    citation = """@inproceedings{chen2018darkrank,
  title = {DarkRank: Accelerating Deep Metric Learning via Cross Sample Similarities Transfer},
  author = {Chen, Yuntao and Wang, Naiyan and Zhang, Zhaoxiang},
  booktitle = {AAAI},
  year = {2018},
  eprint = {1707.01220},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        pool: str = "mean",
        alpha: float = 3.0,
        beta: float = 3.0,
        length: int = 4,
        normalize: bool = True,
        gather: bool = False,
        stack: str = "",
    ) -> None:
        super().__init__(
            layer_map=layer_map,
            pool=pool,
            alpha=alpha,
            beta=beta,
            length=length,
            normalize=normalize,
            gather=gather,
            stack=stack,
        )
        for each in range(2, length + 1):  # a short batch has shorter lists
            self.register_buffer(f"orders_of_{each}", orders(each), persistent=False)

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        every = self.get_buffer(f"orders_of_{student.shape[-1]}")
        log_q, log_p = log_probability(student[:, every]), log_probability(teacher[:, every])
        return (log_p.exp() * (log_p - log_q)).sum(-1)
