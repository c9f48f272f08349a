"""Hidden layers that foretell the classes, or the features, which the teacher's foretells."""

from __future__ import annotations

from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.losses import blank, cross_entropy, masked_sum
from hf_distill.objectives.hidden_states import HiddenStates
from hf_distill.objectives.layer_heads import POOLS, LayerHead, Map, check_classes, unlearned
from hf_distill.objectives.layer_pairs import Layers
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.tasks import Batch, Task

UNTRAINED = (
    "the teacher's heads have learned nothing; train them in a stage before, with knowledge_preregression_heads under "
    "the same name"
)


@register("knowledge_preregression")
class KnowledgePreregression(HiddenStates):
    """Knowledge pre-regression (Wang, Deng & Wang, 2016, doi:10.1007/978-3-319-46484-8_32): a hidden layer follows the
    teacher's by a cross-entropy instead of a distance.

    L = -sum_c p_c log q_c with the temperature tau and no factor tau^2. `form="class"`: p = softmax((W_t t + b_t) /
    tau) and q = softmax((W_s s + b_s) / tau) over the task's classes, s and t the pooled states of a text, or those of
    each token where the task labels tokens. W_t and b_t stay as `knowledge_preregression_heads` trained them by the
    labels in a stage before, under the same name; W_s and b_s are learned. `form="channel"`: p = softmax(t / tau) and
    q = softmax((W s + b) / tau) over the teacher's features, at every real token; W and b exist where the widths
    differ. Several pairs of layers are added. The least value is the entropy of p, not 0.

    That a cross-entropy takes the place of the Euclidean distance is what the paper's abstract says; how it is wired
    is a decision made here.

    Reads: hidden[i] of both, [batch, length, width].  Counts: examples that have text, or the tokens of soft targets;
    real tokens with `form="channel"`.
    Errors: `IncompatiblePair` for `class` where the task has no softmax over two classes or more, and where the layer
    map does not fit. It warns of heads of the teacher that were not trained.
    """

    default_layer_map = "middle"
    takes = ("teacher_heads.",)
    citation = """@inproceedings{wang2016accelerating,
  title = {Accelerating Convolutional Neural Networks with Dominant Convolutional Kernel and Knowledge Pre-regression},
  author = {Wang, Zhenyang and Deng, Zhidong and Wang, Shiyao},
  booktitle = {ECCV},
  year = {2016},
  url = {https://doi.org/10.1007/978-3-319-46484-8_32}
}"""

    def __init__(
        self,
        *,
        layer_map: Layers | None = None,
        form: str = "class",
        temperature: float = 1.0,
        pool: str = "mean",
        stack: str = "",
    ) -> None:
        super().__init__(
            layer_map=layer_map, projection="per_layer", reduction="token_mean", layer_reduction="sum", stack=stack
        )
        check_choice(self.name, "form", form, ("class", "channel"))
        check_choice(self.name, "pool", pool, POOLS)
        check_number(self.name, "temperature", temperature, 0.0, 1e3, open_low=True)
        self.form, self.temperature, self.pool = form, temperature, pool
        self.teacher_heads, self.student_heads = nn.ModuleList(), nn.ModuleList()

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if self.form == "channel":
            return
        check_classes(self.name, pair)
        self.head = LayerHead(self.name, pair, self.pool, self.stack)
        self.projections = nn.ModuleList()  # the heads bring both sides to the classes
        student, teacher = (shape.hidden_size for shape in self.shapes(pair))
        classes = pair.student.num_logits
        self.teacher_heads = nn.ModuleList(Map(teacher, classes, trains=False) for _ in self.layers)
        self.student_heads = nn.ModuleList(Map(student, classes, trains=True) for _ in self.layers)

    @property
    def reaches_zero(self) -> bool:
        return False

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        if self.form == "channel":
            return mask.sum()
        counted = self._counted(mask, batch)
        return counted.sum()

    def _counted(self, mask: Tensor, batch: Batch) -> Tensor:
        """The rows that count for soft targets."""
        task = self.pair.task
        found = task.soft_mask(batch, task.tokens[0]) if task.tokens else None
        return mask.any(1) if found is None else found

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return cross_entropy(student / self.temperature, teacher / self.temperature)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if self.form == "channel":
            return super().forward(student, teacher, batch)
        self.remark(unlearned(self.teacher_heads), UNTRAINED)
        mask, values = self.shown_mask(student), []
        for i, (state, target) in enumerate(self.tensors(student, teacher)):
            (ours,) = self.head.rows(self.student_heads[i], blank(state, mask), mask, batch)
            (theirs,) = self.head.rows(self.teacher_heads[i], blank(target, mask), mask, batch)
            values.append(self.distance(ours, theirs))
        return masked_sum(sum(values[1:], values[0]), self._counted(mask.bool(), batch))
