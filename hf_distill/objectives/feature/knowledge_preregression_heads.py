"""Heads on the teacher's hidden layers, for knowledge pre-regression."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill.activations import Activations, Needs
from hf_distill.errors import DistillationError
from hf_distill.losses import at_least_float32, blank
from hf_distill.objectives.layer_heads import POOLS, LayerHead, Map, check_classes
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.tasks import Batch, Task


@register("knowledge_preregression_heads")
class KnowledgePreregressionHeads(LayerPairs):
    """The first stage of knowledge pre-regression (Wang, Deng & Wang, 2016, doi:10.1007/978-3-319-46484-8_32): a
    linear head on each mapped layer of the frozen teacher learns the labels.

    L = -log softmax(W_t t + b_t)_y, t the pooled states of a text, or those of each token where the task labels
    tokens; several layers are added. The student is not trained. `knowledge_preregression`, in a stage after it and
    under the same name, takes the heads. Give both the same `layer_map`, `pool` and `stack`.

    Reads: hidden[j] of the teacher, [batch, length, width].  Counts: labels.
    Errors: `IncompatiblePair` where the task has no softmax over two classes or more, or the layer map does not fit;
    `DataError` for a batch without labels.
    """

    default_layer_map = "middle"
    trains_student = False
    needs_labels = True
    citation = """@inproceedings{wang2016accelerating,
  title = {Accelerating Convolutional Neural Networks with Dominant Convolutional Kernel and Knowledge Pre-regression},
  author = {Wang, Zhenyang and Deng, Zhidong and Wang, Shiyao},
  booktitle = {ECCV},
  year = {2016},
  url = {https://doi.org/10.1007/978-3-319-46484-8_32}
}"""

    def __init__(self, *, layer_map: Layers | None = None, pool: str = "mean", stack: str = "") -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        check_choice(self.name, "pool", pool, POOLS)
        self.pool = pool
        self.teacher_heads = nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        check_classes(self.name, pair)
        self.head = LayerHead(self.name, pair, self.pool, self.stack)
        width = self.shapes(pair)[1].hidden_size
        classes = pair.student.num_logits
        self.teacher_heads = nn.ModuleList(Map(width, classes, trains=True) for _ in self.layers)

    @property
    def reaches_zero(self) -> bool:
        return False

    def needs(self) -> Needs:
        return Needs.of((), super().needs().teacher)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.label_mask(batch).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher.")
        mask, shown = self.shown_mask(student), teacher.stack(self.stack).hidden
        values = []
        for head, (_, layer) in zip(self.teacher_heads, self.layers, strict=True):
            state = blank(at_least_float32(shown[layer].detach()), mask)
            values.append(self.head.label_loss(head, state, mask, batch))
        return sum(values[1:], values[0])
