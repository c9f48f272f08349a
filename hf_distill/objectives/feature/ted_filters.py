"""Filters that keep what the task needs of a layer, for task-aware layer-wise distillation."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.losses import blank
from hf_distill.objectives.layer_heads import POOLS, LayerHead, Map, check_smoothing
from hf_distill.objectives.layer_pairs import LayerPairs, Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count
from hf_distill.tasks import Batch, Task


@register("ted_filters")
class TEDFilters(LayerPairs):
    """The first stage of task-aware layer-wise distillation (Liang, Zuo, Zhang, He, Chen & Zhao, 2023,
    arXiv:2210.01351): both models stay as they are, and a linear filter with a head of its own on each mapped layer
    learns the task.

    L is the loss of the labels at the heads, the mean over the layers of each model, added up over both models. A head
    reads the filtered state of one token of a text (`pool`), their mean, or every token where the task labels tokens.
    `ted`, in a stage after it and under the same name, takes the filters; the heads are dropped. Give both the same
    `layer_map`, `width` and `stack`.

    Reads: hidden[i] of both, [batch, length, width].  Counts: labels.
    Errors: `IncompatiblePair` where the models have no head, where a causal model would be pooled at its first token,
    for label smoothing where the task has no single class a row, or the layer map does not fit; `DataError` for a
    batch without labels.
    """

    default_layer_map = "spread"
    first_layer = 1
    trains_student = False
    needs_labels = True
    citation = """@inproceedings{liang2023less,
  title = {Less is More: Task-aware Layer-wise Distillation for Language Model Compression},
  author = {Liang, Chen and Zuo, Simiao and Zhang, Qingru and He, Pengcheng and Chen, Weizhu and Zhao, Tuo},
  booktitle = {ICML},
  year = {2023},
  eprint = {2210.01351},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        width: int | None = None,
        pool: str = "first_token",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        if width is not None:
            check_count(self.name, "width", width, 1)
        check_choice(self.name, "pool", pool, POOLS)
        self.width, self.pool = width, pool
        self.student_filters, self.teacher_filters = nn.ModuleList(), nn.ModuleList()
        self.student_heads, self.teacher_heads = nn.ModuleList(), nn.ModuleList()

    @property
    def equation(self) -> str:
        return "L = the labels' loss at a head on each filtered layer, averaged over layers and added over both models"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        check_smoothing(self.name, pair)
        self.head = LayerHead(self.name, pair, self.pool, self.stack)
        student, teacher = (shape.hidden_size for shape in self.shapes(pair))
        width, classes = self.width or teacher, pair.student.num_logits
        self.student_filters = nn.ModuleList(Map(student, width, trains=True) for _ in self.layers)
        self.teacher_filters = nn.ModuleList(Map(teacher, width, trains=True) for _ in self.layers)
        self.student_heads = nn.ModuleList(Map(width, classes, trains=True) for _ in self.layers)
        self.teacher_heads = nn.ModuleList(Map(width, classes, trains=True) for _ in self.layers)

    @property
    def reaches_zero(self) -> bool:
        return False

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return task.label_mask(batch).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        mask = self.shown_mask(student)
        models = ((self.student_filters, self.student_heads), (self.teacher_filters, self.teacher_heads))
        values = []
        for i, states in enumerate(self.tensors(student, teacher)):
            for (filters, heads), state in zip(models, states, strict=True):
                filtered = filters[i](blank(state.detach(), mask))
                values.append(self.head.label_loss(heads[i], filtered, mask, batch))
        return sum(values[1:], values[0]) / len(self.layers)
