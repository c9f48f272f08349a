"""Factors of the student's states that point where the teacher's do."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError
from hf_distill.losses import blank, safe_sqrt, unit
from hf_distill.objectives.layer_heads import TwoMaps, factor_width, unlearned
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.tasks import Batch, Task

UNTRAINED = (
    "the paraphrasers have learned nothing; train them in a stage before, with factor_paraphraser under the same name"
)


@register("factor_transfer")
class FactorTransfer(LayerPairs):
    """Factor transfer (Kim, Park & Kwak, 2018, arXiv:1802.04977), second stage.

    L = |F_s / |F_s| - F_t / |F_t|| of each text, F the factors of all its tokens in one vector, |.| outside the sum of
    the absolute values (`p` 1, the default) or the root of the squares' sum (`p` 2). F_t is what the encoder of
    `factor_paraphraser`, in a stage before and under the same name, makes of the teacher's state; F_s is what a
    translator, which learns here, makes of the student's. Several pairs of layers are added. RepDistiller gives it the
    weight 200, with the mean over the entries in place of the sum.

    The nets of the paper are convolutions; here each is two linear maps with a leaky ReLU between, token by token, and
    a factor is half as wide as the teacher.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text.
    Errors: `IncompatiblePair` where the layer map does not fit. It warns of paraphrasers that were not trained.
    """

    default_layer_map = "final"
    takes = ("paraphrasers.",)
    citation = """@inproceedings{kim2018paraphrasing,
  title = {Paraphrasing Complex Network: Network Compression via Factor Transfer},
  author = {Kim, Jangho and Park, SeongUk and Kwak, Nojun},
  booktitle = {NeurIPS},
  year = {2018},
  eprint = {1802.04977},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, layer_map: Layers | None = None, p: int = 1, stack: str = "") -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        if isinstance(p, bool) or p not in (1, 2):
            raise DistillationError(f"{self.name}: p is {p!r}; it may be 1 or 2.")
        self.p = p
        self.paraphrasers, self.translators = nn.ModuleList(), nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = (shape.hidden_size for shape in self.shapes(pair))
        width = factor_width(teacher)
        self.paraphrasers = nn.ModuleList(TwoMaps(teacher, teacher, width, trains=False) for _ in self.layers)
        self.translators = nn.ModuleList(TwoMaps(student, width, width, trains=True) for _ in self.layers)

    @property
    def joins_documents(self) -> str:
        return "compares all tokens of a row as one vector"

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.mask(batch).any(1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        self.remark(unlearned(self.paraphrasers), UNTRAINED)
        mask, values = self.shown_mask(student), []
        for i, (state, target) in enumerate(self.tensors(student, teacher)):
            ours = self._factors(self.translators[i], state, mask)
            theirs = self._factors(self.paraphrasers[i], target, mask)
            difference = ours - theirs
            values.append(difference.abs().sum(1) if self.p == 1 else safe_sqrt(difference.square().sum(1)))
        return torch.stack(values).sum()

    def _factors(self, net: nn.Module, state: Tensor, mask: Tensor) -> Tensor:
        """The factors of each text as one vector of length 1, 0 in padding."""
        return unit(blank(net(blank(state, mask)), mask).flatten(1))
