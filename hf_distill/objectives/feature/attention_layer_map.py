"""Hidden states that choose the teacher's layers they follow."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import mean_squared_difference
from hf_distill.objectives.layer_groups import LayerGroups
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_flag
from hf_distill.pooling import pooled
from hf_distill.tasks import Batch, Task


@register("attention_layer_map")
class AttentionLayerMap(LayerGroups):
    """ALP-KD, attention-based layer projection (Passban, Wu, Rezagholizade & Liu, 2021, arXiv:2012.14022).

    For each student block with the sentence vector h_s and its group of teacher blocks with h_t1, h_t2, ...:
    w = softmax_n(h_tn . h_s), L = (1/D) |h_s - sum_n w_n h_tn|^2 of each example, D the width; the mean over the
    student's blocks. The gradient flows through w, too. A group is all of the teacher's blocks, or what `layer_map`
    says (`regular`, `overlapping`, pairs). The vector is the state of one token (`pool`): the first, [CLS], or the
    last, which alone has seen the whole text in a causal model.

    Products of wide states make w choose a single layer; `scaled=True` divides them by the root of D, as attention
    does. That L is a mean over features and blocks, and that w is not scaled, are decisions made here.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text.
    Errors: `IncompatiblePair` where widths differ, where a causal model would be pooled at its first token, or where a
    pair does not exist.
    """

    default_layer_map = "all"
    citation = """@inproceedings{passban2021alp,
  title = {ALP-KD: Attention-Based Layer Projection for Knowledge Distillation},
  author = {Passban, Peyman and Wu, Yimeng and Rezagholizade, Mehdi and Liu, Qun},
  booktitle = {AAAI},
  year = {2021},
  eprint = {2012.14022},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self, *, layer_map: Layers | None = None, scaled: bool = False, pool: str = "first_token", stack: str = ""
    ) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_flag(self.name, "scaled", scaled)
        check_choice(self.name, "pool", pool, ("first_token", "last_token", "mean"))
        self.scaled, self.pool = scaled, pool

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = self.shapes(pair)
        if student.hidden_size != teacher.hidden_size:
            raise IncompatiblePair(
                f"{self.name}: the student's hidden states are {student.hidden_size} wide, the teacher's "
                f"{teacher.hidden_size}, and their products choose the layers; take a student of the teacher's width, "
                "or use layer_combination, which projects."
            )
        if self.pool == "first_token" and (student.causal or teacher.causal):
            side = "student" if student.causal else "teacher"
            raise IncompatiblePair(
                f"{self.name}: the {side} is causal, so its first token has seen nothing but itself; set "
                "pool='last_token'."
            )

    @property
    def joins_documents(self) -> str:
        return "has one vector of each row"

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.mask(batch).any(1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask, values = self.shown_mask(student), []
        for state, group in self.grouped(student, teacher, mask):
            vector = pooled(state, mask, self.pool)
            targets = torch.stack([pooled(target, mask, self.pool) for target in group], 1)
            values.append(mean_squared_difference(vector, self._chosen(vector, targets)))
        # An example without text has the vector 0 on both sides.
        return torch.stack(values).mean(0).sum()

    def _chosen(self, vector: Tensor, targets: Tensor) -> Tensor:
        """The mean of `targets` `[batch, layers, width]`, weighed by their products with `vector` `[batch, width]`."""
        products = torch.bmm(targets, vector.unsqueeze(2))
        if self.scaled:
            products = products * vector.shape[-1] ** -0.5
        return (products.softmax(1) * targets).sum(1)
