"""The teacher's states out of the student's with parts of them hidden."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.losses import blank, squared_difference
from hf_distill.objectives.hidden_states import Window
from hf_distill.objectives.hints import Hints
from hf_distill.objectives.layer_pairs import Layers, reduced
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.tasks import Batch


@register("dmkd")
class DMKD(Hints):
    """Dual masking knowledge distillation (Yang, Tang, Wu, Li, Xu & Wan, 2024, arXiv:2309.02719).

    The student's state, mapped to the teacher's width where that differs, is hidden twice: some tokens in one copy,
    some features in the other. A generator each makes the teacher's state t of what is left,
    A = G_tok(M_tok s), B = G_chan(M_chan s), and L = sum_k |w_tok A_k + w_chan B_k - t_k|^2 of each text
    (`form="paper"`), or the mean of the squares over tokens and features (`code`). G is a convolution over a token and
    its neighbours, ReLU, and another one; w is the softmax of two learned numbers, 1/2 each at first. All of these are
    learned with the student. Over several pairs of layers the values are added.

    Hidden are the share `ratio` of a text's tokens, rounded down, whose states are largest in the teacher (mean
    |t_kj| over j), and of the features that are largest over the text (`guide="attention"`), or random ones
    (`random`); one is always kept. Only the abstract of the paper could be read: the reconstruction is that of its
    ancestor (Yang et al., 2022, arXiv:2205.01529), with its ratio 0.65, and the rule for what is hidden and the fusion
    are decisions made here. A temperature, which the guiding attention has there, orders tokens and features the same,
    so there is none. The ancestor's published weight is 2e-5 on the sum of the squares of an image.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text; tokens with `form="code"`.
    Errors: `IncompatiblePair` where the layer map does not fit.
    """

    default_layer_map = "final"
    citation = """@inproceedings{yang2024dmkd,
  title = {DMKD: Improving Feature-Based Knowledge Distillation for Object Detection Via Dual Masking Augmentation},
  author = {Yang, Guang and Tang, Yin and Wu, Zhijian and Li, Jun and Xu, Jianhua and Wan, Xili},
  booktitle = {ICASSP},
  year = {2024},
  eprint = {2309.02719},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "paper",
        guide: str = "attention",
        ratio: float = 0.65,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, regressor="linear", form=form, stack=stack)
        check_choice(self.name, "guide", guide, ("attention", "random"))
        check_number(self.name, "ratio", ratio, 0.0, 1.0)
        self.guide, self.ratio = guide, ratio
        self.reconstructions = nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        width = self.shapes(pair)[1].hidden_size
        self.reconstructions = nn.ModuleList(Reconstruction(width) for _ in self.layers)

    @property
    def joins_documents(self) -> str:
        return "rebuilds a token of those beside it"

    @property
    def equation(self) -> str:
        square = "|w_tok A + w_chan B - t|^2"
        over = f"sum_k {square} of each text" if self.form == "paper" else f"(1/D) {square} at every real token"
        return f"L = {over}, A and B the states of the teacher made from what masks of tokens and features left"

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask, values = self.shown_mask(student).bool(), []
        for rebuild, (state, target) in zip(self.reconstructions, self.matched(student, teacher, mask), strict=True):
            kept = self.kept(target, mask)
            values.append(self.over_features(squared_difference(rebuild(blank(state, mask), mask, *kept), target)))
        return reduced(values, mask, self.reduction, self.layer_reduction)

    def kept(self, target: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens `[batch, length]` and the features `[batch, width]` that are not hidden, boolean."""
        sizes = target.abs()
        tokens, features = sizes.mean(-1), sizes.sum(1)
        if self.guide == "random":
            tokens, features = torch.rand_like(tokens), torch.rand_like(features)
        everything = torch.ones_like(features, dtype=torch.bool)
        return _without_largest(tokens, mask, self.ratio), _without_largest(features, everything, self.ratio)


class Reconstruction(nn.Module):
    """Both generators, and the weights of what they make."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens, self.features = Generator(width), Generator(width)
        self.fusion = nn.Parameter(torch.zeros(2, dtype=torch.float32))

    def forward(self, state: Tensor, mask: Tensor, tokens: Tensor, features: Tensor) -> Tensor:
        """The teacher's state, of the student's with the tokens and features that are kept."""
        weights = self.fusion.to(state.dtype).softmax(0)
        from_tokens = self.tokens(torch.where(tokens.unsqueeze(-1), state, 0.0), mask)
        from_features = self.features(torch.where(features.unsqueeze(1), state, 0.0), mask)
        together: Tensor = weights[0] * from_tokens + weights[1] * from_features
        return together


class Generator(nn.Module):
    """Two convolutions over a token and its neighbours, with a ReLU between; padding stays 0 on the way."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Window(width, width), Window(width, width)

    def forward(self, state: Tensor, mask: Tensor) -> Tensor:
        made: Tensor = self.second(blank(functional.relu(self.first(state)), mask))
        return made


def _without_largest(values: Tensor, among: Tensor, share: float) -> Tensor:
    """All of `among` `[batch, n]` but the `share` with the largest values, rounded down; one is always kept."""
    ranked = values.masked_fill(~among, -1.0).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    number = among.sum(1, keepdim=True)
    hidden = torch.minimum((number * share).floor(), number - 1)
    return among & (ranked >= hidden)
