"""The teacher's order of the batch's texts, as likely as can be."""

from __future__ import annotations

from torch import Tensor

from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.rankings import Ranking, log_probability
from hf_distill.objectives.registry import register


@register("darkrank_hard")
class DarkRankHard(Ranking):
    """DarkRank, hard transfer (Chen, Wang & Zhang, 2018, arXiv:1707.01220).

    L = mean over queries of -log P_student(pi), pi the order of the `length` texts nearest to the query, nearest
    first, in the teacher; log P(pi) = sum_i (S_pi(i) - log sum_{m >= i} exp S_pi(m)), S(x) = -alpha |x - query|^beta.
    A shorter batch has a list of all its other texts. The value falls with the gaps between the student's scores, so
    it is not least where student and teacher are alike.

    `normalize` makes unit vectors first (no part of the paper): scores of long vectors leave one order all the
    probability. The paper takes the first example of a batch as the query and all others as the list; here every
    example is a query, as in the code of its successors (whose alpha, beta and length are the defaults), and equal
    texts cannot push the query into its own list.

    Reads: hidden[i] of both, pooled to [batch, width] (`pool`); widths may differ.  Counts: batches, of 3 examples or
    more; a gradient is of the examples of a micro-batch alone, or with `gather` of those of all processes.
    Errors: `IncompatiblePair` where the layer map does not fit, or where a causal model would be pooled at its first
    token.
    """

    longest = 1024
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

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        return -log_probability(student)
