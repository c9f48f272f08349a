"""A middle layer that foretells the teacher's."""

from __future__ import annotations

import logging

from torch import Tensor

from hf_distill.losses import squared_difference
from hf_distill.objectives.hints import Hints
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register

logger = logging.getLogger(__name__)


@register("fitnets_hint")
class FitNetsHint(Hints):
    """The hint of FitNets (Romero, Ballas, Ebrahimi Kahou, Chassang, Gatta & Bengio, 2015, arXiv:1412.6550).

    L = 1/2 sum_k |W s_k + b - t_k|^2 of each text, k its tokens, s the guided layer of the student, t the hint, a
    layer of the teacher (`form="paper"`). It grows with the length of the texts; `form="code"`, the mean of the
    squares over tokens and features without the 1/2, does not: it is what later code bases compare with, at a weight
    of 100.

    W and b, the regressor, exist where the widths differ and are dropped with the objective. The paper's is a
    convolution; here `linear`, or `conv1d` over a token and its neighbours. Its two stages are two stages of a recipe:
    the hint alone with the layers above the guided one frozen, then the task with soft targets.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text; tokens with `form="code"`.
    Errors: `IncompatiblePair` where widths differ and `regressor` is `none`, or the layer map does not fit. It warns
    of a guided layer that lies more than a layer higher in the student than its hint in the teacher.
    """

    default_layer_map = "middle"
    citation = """@inproceedings{romero2015fitnets,
  title = {FitNets: Hints for Thin Deep Nets},
  author = {Romero, Adriana and Ballas, Nicolas and Ebrahimi Kahou, Samira and Chassang, Antoine and Gatta, Carlo and
            Bengio, Yoshua},
  booktitle = {ICLR},
  year = {2015},
  eprint = {1412.6550},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "paper",
        regressor: str = "linear",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, regressor=regressor, form=form, stack=stack)

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        depths = [shape.num_hidden_layers for shape in self.shapes(pair)]
        for guided, hint in self.layers:
            if (guided - 1) * depths[1] > hint * depths[0]:
                logger.warning(
                    "%s: layer %d of the student's %d is guided by layer %d of the teacher's %d, which has computed "
                    "less; pair it with a higher one.",
                    self.name, guided, depths[0], hint, depths[1],
                )  # fmt: skip

    @property
    def equation(self) -> str:
        mapped = "W s + b" if self._pair is None or len(self.projections) else "s"
        if self.form == "code":
            return f"L = (1/D) |{mapped} - t|^2 at every real token, D the teacher's width"
        return f"L = 1/2 sum_k |{mapped} - t|^2 of each text, k its tokens"

    def errors(self, student: Tensor, teacher: Tensor) -> Tensor:
        squares = squared_difference(student, teacher)
        return 0.5 * squares if self.form == "paper" else squares
