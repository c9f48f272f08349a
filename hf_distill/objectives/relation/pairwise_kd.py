"""How similar the tokens of a text are to each other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.losses import unit
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.regions import means, members, windows
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count
from hf_distill.objectives.text_relations import TextRelations
from hf_distill.tasks import Batch


@register("pairwise_kd")
class PairwiseKD(TextRelations):
    """Pair-wise similarities of structured distillation (Liu, Chen, Liu, Qin, Luo & Wang, 2019, arXiv:1903.04197).

    L = (1/n^2) sum_pq (a_pq^student - a_pq^teacher)^2 of each example, a_pq = cos(f_p, f_q), over the pairs of its n
    nodes. A node is a token, or with `span` the mean of so many tokens that follow each other. `reach`, of the journal
    version (Liu, Shu, Wang & Shen, 2020), keeps the pairs at most so many nodes apart and takes the mean over these.
    Over several pairs of layers the values are added. The published weight is 1.

    `form="code"` is what the authors' code does: norms count as constants, so that the value is the same and the
    gradient is not orthogonal to the states. A state of zeros has the cosine 0 with all others, itself included.
    Widths may differ. A text of one node gives 0.

    One pair of layers takes b n^2 d steps and a few tensors of b n^2 entries; `span` divides n.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text.
    Errors: `IncompatiblePair` where the layer map does not fit; `DataError` where special tokens are to be left out
    and the batch does not tell them.
    """

    default_layer_map: ClassVar[str] = "final"
    citation = """@inproceedings{liu2019structured,
  title = {Structured Knowledge Distillation for Semantic Segmentation},
  author = {Liu, Yifan and Chen, Ke and Liu, Chris and Qin, Zengchang and Luo, Zhenbo and Wang, Jingdong},
  booktitle = {CVPR},
  year = {2019},
  eprint = {1903.04197},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "paper",
        span: int = 1,
        reach: int | None = None,
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, special_tokens=special_tokens, stack=stack)
        check_choice(self.name, "form", form, ("paper", "code"))
        check_count(self.name, "span", span, 1)
        if reach is not None:
            check_count(self.name, "reach", reach, 1)
        self.form, self.span, self.reach = form, span, reach

    @property
    def equation(self) -> str:
        norms = "" if self.form == "paper" else ", norms as constants"
        near = "" if self.reach is None else f" at most {self.reach} apart"
        nodes = "tokens" if self.span == 1 else f"means of {self.span} tokens"
        law = f"a_pq = cos(f_p, f_q){norms}"
        return f"L = mean over p, q{near} of (a_pq^student - a_pq^teacher)^2 of each text, {law}, f its {nodes}"

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        real, pairs = self.states(student, teacher, batch)
        member = None if self.span == 1 else members(windows(real, self.span), -(-real.shape[1] // self.span))
        nodes = real if member is None else member.any(2)
        related = self._related(nodes)
        count = related.sum((1, 2)).clamp(min=1)
        values = []
        for state, target in pairs:
            ours, theirs = (side if member is None else means(side, member) for side in (state, target))
            difference = _cosines(ours, constant_norms=self.form == "code") - _cosines(theirs)
            squares = torch.where(related, difference.square(), 0.0).sum((1, 2))
            values.append((squares / count).sum())
        return sum(values[1:], values[0])

    def _related(self, nodes: Tensor) -> Tensor:
        """The pairs of nodes that are compared, boolean `[batch, nodes, nodes]`; a distance is one in nodes, whatever
        lies between them."""
        related = nodes.unsqueeze(2) & nodes.unsqueeze(1)
        if self.reach is None:
            return related
        places = nodes.cumsum(1)
        return related & ((places.unsqueeze(2) - places.unsqueeze(1)).abs() <= self.reach)


def _cosines(states: Tensor, *, constant_norms: bool = False) -> Tensor:
    """The cosine of every two states, `[batch, nodes, width]` to `[batch, nodes, nodes]`."""
    vectors = unit(states)
    if constant_norms:
        norms = states.detach().norm(dim=-1, keepdim=True)
        long = vectors.detach().any(-1, keepdim=True)
        vectors = torch.where(long, states / torch.where(long, norms, 1.0), 0.0)
    return torch.bmm(vectors, vectors.mT)
