"""Neurons that are active where the teacher's are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import blank, masked_sum
from hf_distill.objectives.hidden_states import Projection
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_number
from hf_distill.tasks import Batch, Task


@register("activation_boundary")
class ActivationBoundary(LayerPairs):
    """Transfer of activation boundaries (Heo, Lee, Yun & Choi, 2019, arXiv:1811.03233).

    L = sum over tokens and neurons of each text of (s + m)^2 where t <= 0 and s > -m, and of (s - m)^2 where t > 0 and
    s <= m: neuron by neuron the student is to lie on the teacher's side of 0, `margin` m away from it. s and t are the
    states of the feed-forward part before its activation function, of the gate where there is one; s goes through a
    learned linear map where the widths differ. Several pairs of layers are added. It is meant for a first stage,
    before the task is trained; the authors' code multiplies it by 3/1000 and halves it with each layer below the last.

    Hidden states have no boundary at 0, so they are not read. A student like its teacher is not at the minimum:
    neurons within the margin are pushed away from 0.

    Reads: feedforward[i] of both, [batch, length, feed-forward width].  Counts: examples that have text.
    Errors: `IncompatiblePair` where the feed-forward part of a family is not known, or the layer map does not fit.
    """

    field = "feedforward"
    first_layer = 1
    default_layer_map = "spread"
    citation = """@inproceedings{heo2019knowledge,
  title = {Knowledge Transfer via Distillation of Activation Boundaries Formed by Hidden Neurons},
  author = {Heo, Byeongho and Lee, Minsik and Yun, Sangdoo and Choi, Jin Young},
  booktitle = {AAAI},
  year = {2019},
  eprint = {1811.03233},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, layer_map: Layers | None = None, margin: float = 1.0, stack: str = "") -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_number(self.name, "margin", margin, 0.0, 1e3)
        self.margin = margin
        self.connectors = nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        widths = tuple(shape.feedforward_size for shape in self.shapes(pair))
        if not all(widths):
            side, shape = ("teacher", pair.teacher) if widths[0] else ("student", pair.student)
            raise IncompatiblePair(
                f"{self.name}: where the feed-forward part of the {side} ({shape.family if shape else ''}) is, is not "
                "known, and its states before the activation function are compared; use hidden_mse."
            )
        differ = widths[0] != widths[1]
        self.connectors = nn.ModuleList(Projection(*widths) for _ in self.layers) if differ else nn.ModuleList()

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.texts(batch)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask, values = self.shown_mask(student), []
        for i, (state, target) in enumerate(self.tensors(student, teacher)):
            connected = blank(state, mask)
            if self.connectors:
                connected = self.connectors[i](connected)
            below = blank(target, mask) <= 0
            distances = torch.where(below, connected + self.margin, self.margin - connected).clamp(min=0.0)
            values.append(distances.square().sum(-1))
        return masked_sum(sum(values[1:], values[0]), mask)
