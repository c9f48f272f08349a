"""Features that answer to the same tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError
from hf_distill.losses import unit
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.text_relations import TextRelations
from hf_distill.tasks import Batch

FEWEST = 3
FEW = f"a text has fewer than {FEWEST} tokens, of which nearly all patterns are 1 and -1, whatever the features"


@register("nst")
class NST(TextRelations):
    """Neuron selectivity transfer (Huang & Wang, 2017, arXiv:1707.01219): the maximum mean discrepancy between the
    patterns of the features of both models.

    The pattern f_j of feature j is its values at the n tokens of a text, divided by their norm; a feature that is 0
    everywhere has the pattern 0. With a kernel k and the widths D_S, D_T the value of a text is
    (1/D_S^2) sum k(f_S, f_S') + (1/D_T^2) sum k(f_T, f_T') - (2/(D_S D_T)) sum k(f_S, f_T). `kernel`: `poly`,
    (x.y + c)^degree (published with degree 2, c 0 and the weight 50), `linear`, x.y, or `gaussian`,
    exp(-|x - y|^2 / (2 `sigma2`)), where `sigma2` is left out the mean squared distance between student's and
    teacher's patterns, without gradient. Over several pairs of layers the values are added. Widths may differ.

    The published kernel is computed as |F_S F_S^T / D_S - F_T F_T^T / D_T|^2 and the linear one as the distance of the
    mean patterns, n^2 D and n D steps; all others take n (D_S + D_T)^2 and hold matrices of D_S D_T. Texts of one or
    two tokens say little: nearly all of their patterns are 1 and -1.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text.
    Errors: `IncompatiblePair` where the layer map does not fit; `DataError` where special tokens are to be left out
    and the batch does not tell them.
    """

    default_layer_map = "final"
    citation = """@misc{huang2017like,
  title = {Like What You Like: Knowledge Distill via Neuron Selectivity Transfer},
  author = {Huang, Zehao and Wang, Naiyan},
  year = {2017},
  eprint = {1707.01219},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        kernel: str = "poly",
        degree: int = 2,
        c: float = 0.0,
        sigma2: float | None = None,
        special_tokens: str = "include",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, special_tokens=special_tokens, stack=stack)
        check_choice(self.name, "kernel", kernel, ("poly", "linear", "gaussian"))
        check_number(self.name, "degree", degree, 1, 8)
        check_number(self.name, "c", c, 0.0, 1e3)
        if sigma2 is not None:
            check_number(self.name, "sigma2", sigma2, 0.0, 1e6, open_low=True)
        if degree != int(degree):
            raise DistillationError(f"{self.name}: degree is {degree!r}; it must be a whole number.")
        self.kernel, self.degree, self.c, self.sigma2 = kernel, degree, c, sigma2

    @property
    def equation(self) -> str:
        kernels = {
            "poly": f"(x.y + {self.c:g})^{self.degree}",
            "linear": "x.y",
            "gaussian": "exp(-|x - y|^2 / (2 s^2))",
        }
        means = "mean k(f_S, f_S') + mean k(f_T, f_T') - 2 mean k(f_S, f_T)"
        return (
            f"L = {means} of each text, f the unit patterns of features over tokens, k(x, y) = {kernels[self.kernel]}"
        )

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        values = []
        real, pairs = self.states(student, teacher, batch)
        tokens = real.sum(1)
        self.remark(((tokens > 0) & (tokens < FEWEST)).any(), FEW)
        for state, target in pairs:
            values.append(self._discrepancy(unit(state.mT), unit(target.mT)))
        return torch.stack(values).sum()

    def _discrepancy(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """One value a text, `[batch]`, of patterns `[batch, features, length]`."""
        if self.kernel == "linear":
            return (ours.mean(1) - theirs.mean(1)).square().sum(-1)
        if self.kernel == "poly" and self.degree == 2 and self.c == 0.0:
            return (_gram(ours) - _gram(theirs)).square().sum((1, 2))
        sigma2 = self._sigma2(ours, theirs)
        means = [self._mean_kernel(x, y, sigma2) for x, y in ((ours, ours), (theirs, theirs), (ours, theirs))]
        return means[0] + means[1] - 2.0 * means[2]

    def _mean_kernel(self, x: Tensor, y: Tensor, sigma2: Tensor | float) -> Tensor:
        if self.kernel == "poly":
            return (torch.bmm(x, y.mT) + self.c).pow(self.degree).mean((1, 2))
        return (-_squared_distances(x, y) / (2.0 * sigma2)).exp().mean((1, 2))

    def _sigma2(self, ours: Tensor, theirs: Tensor) -> Tensor | float:
        """`sigma2`, or of each text `[batch, 1, 1]`."""
        if self.kernel != "gaussian" or self.sigma2 is not None:
            return self.sigma2 or 1.0
        mean = _squared_distances(ours.detach(), theirs).mean((1, 2), keepdim=True)
        return torch.where(mean > 0, mean, 1.0)


def _gram(patterns: Tensor) -> Tensor:
    """The mean of f f^T over the features, `[batch, length, length]`."""
    return torch.bmm(patterns.mT, patterns) / patterns.shape[1]


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j|^2 of patterns, whose norms are 1 or 0: rounding leaves no digits to be lost."""
    squares = x.square().sum(-1).unsqueeze(2) + y.square().sum(-1).unsqueeze(1)
    return (squares - 2.0 * torch.bmm(x, y.mT)).clamp(min=0.0)
