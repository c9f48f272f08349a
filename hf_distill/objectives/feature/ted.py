"""Hidden states that agree in what the task needs of them."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.losses import blank, mean_squared_difference
from hf_distill.objectives.layer_heads import Map, unlearned
from hf_distill.objectives.layer_pairs import LayerPairs, Layers, reduced
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_count
from hf_distill.tasks import Batch

UNTRAINED = "the filters have learned nothing; train them in a stage before, with ted_filters under the same name"


@register("ted")
class TED(LayerPairs):
    """Task-aware layer-wise distillation (Liang, Zuo, Zhang, He, Chen & Zhao, 2023, arXiv:2210.01351), second stage.

    L = (1/F) |f_s(h_s) - f_t(h_t)|^2 at every real token, the mean over the pairs of layers. f_s, f_t are linear
    filters of each layer, F wide: the teacher's width unless `width` is given. `ted_filters`, in a stage before and
    under the same name, makes them keep what the task needs; here the teacher's stay and the student's are trained
    with it.

    The authors' code counts the states of padding, too; here they are left out. Its weights, such as 7500 for MNLI and
    20 for SST-2, go with the labels and soft targets at temperature 2.

    Reads: hidden[i] of both, [batch, length, width].  Counts: tokens, or examples with `reduction="example_mean"`.
    Errors: `IncompatiblePair` where the layer map does not fit. It warns of filters that were not trained.
    """

    default_layer_map = "spread"
    first_layer = 1
    takes = ("student_filters.", "teacher_filters.")
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
        reduction: str = "token_mean",
        stack: str = "",
    ) -> None:
        super().__init__(layer_map=layer_map, stack=stack)
        if width is not None:
            check_count(self.name, "width", width, 1)
        check_choice(self.name, "reduction", reduction, ("token_mean", "example_mean"))
        self.width, self.reduction = width, reduction
        self.student_filters, self.teacher_filters = nn.ModuleList(), nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        student, teacher = (shape.hidden_size for shape in self.shapes(pair))
        width = self.width or teacher
        self.student_filters = nn.ModuleList(Map(student, width, trains=True) for _ in self.layers)
        self.teacher_filters = nn.ModuleList(Map(teacher, width, trains=False) for _ in self.layers)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        self.remark(unlearned(self.teacher_filters), UNTRAINED)
        mask, values = self.shown_mask(student), []
        for i, (state, target) in enumerate(self.tensors(student, teacher)):
            ours, theirs = self.student_filters[i](blank(state, mask)), self.teacher_filters[i](blank(target, mask))
            values.append(mean_squared_difference(ours, theirs))
        return reduced(values, mask, self.reduction, "mean")
