"""One vector a text, near the teacher's."""

from __future__ import annotations

from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import mean_squared_difference
from hf_distill.objectives.hidden_states import HiddenStates
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.pooling import POOLS, pooled
from hf_distill.tasks import Batch


@register("pooled_distance")
class PooledDistance(HiddenStates):
    """The distance of pooled states, stage one of two-stage textual distillation (Kim, Kim, Shin & Lee, 2021,
    arXiv:2010.13105), beside the loss of masked words; stage two is `labels` and `soft_targets` of kind `logit_l1`.

    L = (1/D) sum_d |u_d - v_d| of each example, u and v the vectors of student and teacher, of width D: the states of
    the first token, or pooled otherwise (`pooling`), by default of the last block. `kind="mse"` squares in place of
    sizes. The script of the paper's first stage is not published (unconfirmed): L1 is what its second stage has, the
    mean over the width and the weight 1 are choices of this package. Where widths differ, `projection` maps the
    student's vector, as `hidden_mse` does; the paper has none.

    Both models read the same tokens: a teacher of another tokenisation is refused, as everywhere.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text.
    Errors: `IncompatiblePair` where widths differ without a projection, where a causal model would be pooled at its
    first token, and where the layer map does not fit.
    """

    default_layer_map = "final"
    citation = """@inproceedings{kim2021two,
  title = {Two-Stage Textual Knowledge Distillation for End-to-End Spoken Language Understanding},
  author = {Kim, Seongbin and Kim, Gyuwan and Shin, Seongjin and Lee, Sangmin},
  booktitle = {ICASSP},
  year = {2021},
  eprint = {2010.13105},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        kind: str = "l1",
        pooling: str = "first_token",
        layer_map: Layers | None = None,
        projection: str = "none",
        stack: str = "",
    ) -> None:
        super().__init__(
            layer_map=layer_map, projection=projection, reduction="example_mean", layer_reduction="mean", stack=stack
        )
        check_choice(self.name, "kind", kind, ("l1", "mse"))
        check_choice(self.name, "pooling", pooling, POOLS)
        self.kind, self.pooling = kind, pooling

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        sides = zip(("student", "teacher"), self.shapes(pair), strict=True)
        causal = next((side for side, shape in sides if shape.causal), None)
        if self.pooling == "first_token" and causal is not None:
            raise IncompatiblePair(
                f"{self.name}: the {causal} is causal, so its first token has seen nothing but itself; set "
                "pooling='last_token'."
            )

    @property
    def joins_documents(self) -> str:
        return "has one vector of each row"

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        if self.kind == "mse":
            return mean_squared_difference(student, teacher)
        return (student - teacher).abs().mean(-1)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student)
        some = mask.bool().any(1)
        values = []
        for i, (state, target) in enumerate(self.tensors(student, teacher)):
            ours, theirs = (pooled(each, mask, self.pooling) for each in (state, target))
            values.append(self.distance(self._project(ours, i), theirs).where(some, 0.0).sum())
        return sum(values[1:], values[0]) / len(values)
