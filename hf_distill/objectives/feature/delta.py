"""Fine-tuning that keeps what mattered at the start."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import blank, example_means, masked_sum, squared_difference
from hf_distill.objectives.base import Rises
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count
from hf_distill.tasks import Batch, Task


@register("delta")
class Delta(LayerPairs):
    """DELTA, feature maps kept with attention (Li, Xiong, Wang, Rao, Liu & Huan, 2019, arXiv:1901.09229).

    The teacher is the student's own starting point, and the term holds a fine-tuned student near it, each feature j by
    its weight W_j, which sum to 1 in a layer. `form="paper"`: L = sum_j W_j sum_k (s_kj - t_kj)^2 of each text, k its
    tokens. `form="code"`: L = 1/2 D sum_j W_j (1/n) sum_k (s_kj - t_kj)^2 of each text of n tokens, D features; the
    authors' code adds the texts of a batch up, and here their mean is taken, so that its published weight 0.01 is to
    be multiplied by the examples of its batches, 64. Over several pairs of layers the values are added.

    W comes from how much the task's loss rises without a feature. `importance`: `gradient` estimates it to first
    order, |s_j dL/ds_j| averaged over the tokens (ours, one backward pass), `ablation` sets each feature of a layer to
    0 in turn (the paper's; as many forward passes a batch as there are features), `uniform` weighs all alike, which
    is not DELTA but what the paper compares it with. It is measured once, on the first `importance_batches` batches,
    which need labels, before the first step and on the student as it is then: train its new head in a stage before,
    with the body frozen. `form` says what becomes of the differences: their softmax, or that of a fifth of them after
    standardising (`code`).

    In the paper the weights are of each text, W_ij of text i; here one W a layer serves all texts, as in the authors'
    code: by `ablation` those of every text would take as many passes as features over the whole training data.

    Of the paper's companions, weight decay on the head and L2-SP, neither is part of it; set the weight decay to 0.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text.
    Errors: `IncompatiblePair` without a starting point, or where it has other widths or layers than the student.
    """

    feature_weights: Tensor
    default_layer_map = "one_to_one"
    citation = """@inproceedings{li2019delta,
  title = {DELTA: Deep Learning Transfer using Feature Map with Attention for Convolutional Networks},
  author = {Li, Xingjian and Xiong, Haoyi and Wang, Hanchao and Rao, Yuxuan and Liu, Liping and Huan, Jun},
  booktitle = {ICLR},
  year = {2019},
  eprint = {1901.09229},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "paper",
        importance: str = "gradient",
        importance_batches: int = 4,
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_choice(self.name, "form", form, ("paper", "code"))
        check_choice(self.name, "importance", importance, ("ablation", "gradient", "uniform"))
        check_count(self.name, "importance_batches", importance_batches, 1)
        self.form, self.importance, self.importance_batches = form, importance, importance_batches

    @property
    def equation(self) -> str:
        over = "sum_k" if self.form == "paper" else "1/2 D (1/n) sum_k"
        return f"L = {over} sum_j W_j (s_kj - t_kj)^2 of each text, k its n tokens, W the weights of its D features"

    def bind(self, pair: Pair) -> None:
        if pair.teacher is None:
            raise IncompatiblePair(
                f"{self.name}: there is no starting point to stay near; pass the model that the student was made of, "
                "loaded a second time, as teacher=…."
            )
        super().bind(pair)
        student, teacher = (shape.hidden_size for shape in self.shapes(pair))
        if student != teacher:
            raise IncompatiblePair(
                f"{self.name}: the student's hidden states are {student} wide, the teacher's {teacher}, and feature "
                "is compared with feature; the teacher is the student's own starting point."
            )
        uniform = torch.full((len(self.layers), student), 1.0 / student, dtype=torch.float32)
        self.register_buffer("feature_weights", uniform)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self.texts(batch) if self.form == "paper" else self.mask(batch).any(1).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask, values = self.shown_mask(student), []
        for weights, (state, target) in zip(self.feature_weights, self.tensors(student, teacher), strict=True):
            squares = squared_difference(blank(state, mask), blank(target, mask))
            values.append((squares * weights.to(squares.dtype)).sum(-1))
        together = sum(values[1:], values[0])
        if self.form == "paper":
            return masked_sum(together, mask)
        return 0.5 * self.feature_weights.shape[1] * example_means(together, mask).sum()

    @property
    def asks(self) -> Rises | None:
        if self.importance == "uniform":
            return None
        layers = tuple(student for student, _ in self.layers)
        return Rises(layers, self.stack, self.importance, self.importance_batches)

    def take_rises(self, rises: Tensor) -> None:
        self.feature_weights.copy_(unit_weights(rises, self.form))


def unit_weights(rises: Tensor, form: str) -> Tensor:
    """softmax(r) over the last axis, or with `form` `code` softmax(z / 5), z = (r - mean) / population deviation.

    Where all r are alike the weights are uniform.
    """
    if form == "code":
        centred = rises - rises.mean(-1, keepdim=True)
        deviation = centred.square().mean(-1, keepdim=True).sqrt()
        rises = torch.where(deviation > 0, centred / torch.where(deviation > 0, deviation, 1.0), 0.0) / 5.0
    return rises.softmax(-1)
