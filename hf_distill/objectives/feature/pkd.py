"""Sentence vectors that follow the teacher's through the blocks."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import blank, squared_difference
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_flag
from hf_distill.tasks import Batch, Task


@register("pkd")
class PKD(LayerPairs):
    """Patient knowledge distillation (Sun, Cheng, Gan & Liu, 2019, arXiv:1908.09355).

    L = sum_j |h_sj / |h_sj| - h_tI(j) / |h_tI(j)||^2 of each example, h the state of one token (`pooling`): the first
    one, [CLS], or the last, which alone has seen the whole text in a causal model. Norms are at least 1e-12;
    `normalize=False` leaves them out. j runs over the student's blocks but the last, which the classifier reads: the
    maps `pkd_skip` (every k-th teacher block, the default) and `pkd_last`.

    `reduction="element_mean"` is what the authors' code does: a mean over blocks and features too. The published
    weights belong to it; the paper's sum needs 1 / (blocks * width) of them.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text.
    Errors: `IncompatiblePair` where widths differ, where a causal model would be pooled at its first token, or where
    the layer map does not fit.
    """

    default_layer_map = "pkd_skip"
    citation = """@inproceedings{sun2019patient,
  title = {Patient Knowledge Distillation for BERT Model Compression},
  author = {Sun, Siqi and Cheng, Yu and Gan, Zhe and Liu, Jingjing},
  booktitle = {EMNLP-IJCNLP},
  year = {2019},
  eprint = {1908.09355},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        normalize: bool = True,
        pooling: str = "first_token",
        reduction: str = "example_mean",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_flag(self.name, "normalize", normalize)
        check_choice(self.name, "pooling", pooling, ("first_token", "last_token"))
        check_choice(self.name, "reduction", reduction, ("example_mean", "element_mean"))
        self.normalize = normalize
        self.pooling = pooling
        self.reduction = reduction

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = self.shapes(pair)
        if student.hidden_size != teacher.hidden_size:
            raise IncompatiblePair(
                f"{self.name}: the student's hidden states are {student.hidden_size} wide, the teacher's "
                f"{teacher.hidden_size}, and the method has no projection; take a student of the teacher's width, or "
                "use hidden_mse."
            )
        if self.pooling == "first_token" and (student.causal or teacher.causal):
            side = "student" if student.causal else "teacher"
            raise IncompatiblePair(
                f"{self.name}: the {side} is causal, so its first token has seen nothing but itself; set "
                "pooling='last_token'."
            )

    @property
    def joins_documents(self) -> str:
        return "has one vector of each row"

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.mask(batch).any(1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student).bool()
        place = self._place(mask)
        values = []
        for state, target in self.tensors(student, teacher):
            values.append(squared_difference(self._vector(state, mask, place), self._vector(target, mask, place)))
        # An example without text has the vector 0 on both sides.
        total = sum(values[1:], values[0]).sum()
        return total / (len(values) * values[0].shape[-1]) if self.reduction == "element_mean" else total

    def _place(self, mask: Tensor) -> Tensor:
        """The position of the pooled token in each example, `[batch, 1, 1]`."""
        positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        places = positions if self.pooling == "last_token" else positions.flip(0)
        return (places * mask).argmax(1)[:, None, None]

    def _vector(self, state: Tensor, mask: Tensor, place: Tensor) -> Tensor:
        """The pooled vectors, `[batch, width]`, of length 1 if they are normalized."""
        vector = blank(state, mask).gather(1, place.expand(-1, 1, state.shape[-1])).squeeze(1)
        return functional.normalize(vector, dim=-1, eps=1e-12) if self.normalize else vector
