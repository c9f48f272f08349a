"""Hidden states that tell as much of the teacher's as they can."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.losses import blank
from hf_distill.objectives.hidden_states import Projection
from hf_distill.objectives.hints import Hints
from hf_distill.objectives.layer_pairs import Layers, reduced
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch

FLOOR = 1e-5
"""The least variance."""
AT_FIRST = 5.0
"""The variance that training starts with."""
CONSTANT = f"a variance is at its floor of {FLOOR:g}: a feature of the teacher is constant"


@register("vid")
class VID(Hints):
    """Variational information distillation (Ahn, Hu, Damianou, Lawrence & Dai, 2019, arXiv:1904.05835).

    The teacher's state t given the student's s is taken as normal with the mean mu(s) and a variance v_c of each
    feature: 1/2 [(t_c - mu_c(s))^2 / v_c + log v_c], v_c = softplus(r_c) + 1e-5, without the constant 1/2 log 2 pi.
    `form="paper"` sums it over tokens and features of a text, `form="code"`, to which the published weight 1 belongs,
    takes the mean over them. mu and r are learned with the student, and v starts at 5. mu is three linear maps with
    ReLU between (`mean="deep"`; the paper's convolutions of width 1, the last without a bias) or a single one with a
    bias (`linear`). The loss may be negative.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text; tokens with `form="code"`.
    Errors: `IncompatiblePair` where the layer map does not fit. It warns of a variance that has come down to its
    floor: that feature of the teacher is constant.
    """

    default_layer_map = "spread"
    first_layer = 1
    citation = """@inproceedings{ahn2019variational,
  title = {Variational Information Distillation for Knowledge Transfer},
  author = {Ahn, Sungsoo and Hu, Shell Xu and Damianou, Andreas and Lawrence, Neil D. and Dai, Zhenwen},
  booktitle = {CVPR},
  year = {2019},
  eprint = {1904.05835},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "paper",
        mean: str = "deep",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, regressor="linear", form=form, stack=stack)
        check_choice(self.name, "mean", mean, ("deep", "linear"))
        self.mean = mean
        self.laws = nn.ModuleList()

    @property
    def equation(self) -> str:
        over = "summed over tokens and features of a text" if self.form == "paper" else "averaged over them"
        return f"L = 1/2 [(t_c - mu_c(s))^2 / v_c + log v_c] {over}, mu and v learned, v_c = softplus(r_c) + 1e-5"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = (shape.hidden_size for shape in self.shapes(pair))
        self.projections = nn.ModuleList()  # the law has its own map
        self.laws = nn.ModuleList(Law(student, teacher, deep=self.mean == "deep") for _ in self.layers)

    @property
    def reaches_zero(self) -> bool:
        return True  # and falls below

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student)
        values = []
        laws: list[Law] = list(self.laws)  # type: ignore[arg-type]
        for law, (state, target) in zip(laws, self.tensors(student, teacher), strict=True):
            values.append(self.over_features(law(blank(state, mask), blank(target, mask))))
            self.remark(law.is_at_floor(), CONSTANT)
        return reduced(values, mask, self.reduction, self.layer_reduction)


class Law(nn.Module):
    """A normal law of the teacher's state given the student's; what it gives is -log p, without its constant."""

    def __init__(self, student_width: int, teacher_width: int, *, deep: bool) -> None:
        super().__init__()
        widths = [student_width, *([teacher_width] * (3 if deep else 1))]
        pairs = list(pairwise(widths))
        self.means = nn.ModuleList(
            Projection(*pair, bias=not deep or number < len(pairs)) for number, pair in enumerate(pairs, 1)
        )
        raw = math.log(math.expm1(AT_FIRST - FLOOR))
        self.raw_variance = nn.Parameter(torch.full((teacher_width,), raw, dtype=torch.float32))

    def is_at_floor(self) -> Tensor:
        """Whether a variance is at most twice its floor."""
        return (functional.softplus(self.raw_variance.detach().float()) <= FLOOR).any()

    def forward(self, state: Tensor, target: Tensor) -> Tensor:
        """One value a feature."""
        mean = self.means[0](state)
        for layer in self.means[1:]:
            mean = layer(functional.relu(mean))
        variance = functional.softplus(self.raw_variance.to(state.dtype)) + FLOOR
        errors: Tensor = 0.5 * ((target - mean).square() / variance + variance.log())
        return errors
