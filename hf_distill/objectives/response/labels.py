"""Hard labels."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.tasks import CTC, IGNORED, Batch

_WRITTEN = {
    "softmax": "-log q_y, q = softmax(student), y the label",
    "sigmoid": "-y log q - (1 - y) log(1 - q) of each label, q = sigmoid(student)",
    "identity": "(student - y)^2 of each score",
    "alignment": "-log of the sum over the alignments of labels and frames",
}
"""What a label costs by the form of the task, as `equation` writes it."""


@register("labels")
class Labels(RowWise):
    """The task's own loss on its labels.

    With q = softmax(student), softmax tasks have -log q_y, or with label smoothing e (Szegedy et al., 2016,
    arXiv:1512.00567) (1 - e) (-log q_y) + e mean_c(-log q_c). Multi-label: binary cross-entropy of each known label.
    Regression: (score - target)^2 of each score. Question answering: the mean of start and end. CTC: -log of
    the sum over the alignments of an example. Labels of -100 do not count.

    `classes="new"` keeps to the classes that the teacher does not have, as learning without forgetting does with the
    head of a new task: q is over these alone, rows of other classes do not count, and the weights of the head that
    belong to the others get no gradient.

    Reads: logits of the student.  Counts: labels (positions, elements or examples that carry one).
    `label_smoothing`: None takes the training arguments' `label_smoothing_factor`.
    Errors: `IncompatiblePair` for label smoothing where the task has no single class a row; `DataError` for labels
    that are missing or of another shape or kind than the task's. `IncompatiblePair` for `classes="new"` where the
    teacher has all classes of the student.
    """

    needs_teacher = False
    needs_labels = True
    takes_alignments = True

    def __init__(self, *, label_smoothing: float | None = None, classes: str = "all") -> None:
        super().__init__()
        if label_smoothing is not None:
            check_number("labels", "label_smoothing", label_smoothing, 0.0, 1.0)
        check_choice("labels", "classes", classes, ("all", "new"))
        self.label_smoothing, self.classes = label_smoothing, classes
        self._smoothing = 0.0

    @property
    def equation(self) -> str:
        smoothed = f", labels smoothed by {self._smoothing:g}" if self._smoothing else ""
        form = "softmax" if self._pair is None else self.pair.task.form
        return f"L = {_WRITTEN[form]}{smoothed}"

    def bind(self, pair: Pair) -> None:
        super().bind(pair.among_new() if self.classes == "new" else pair)
        if self.classes == "new" and not self.pair.student_columns:
            raise IncompatiblePair(
                "labels: classes is 'new', the student's classes that its teacher does not have, and there are none; "
                "leave it out, or give the teacher from before the student's labels grew (of several: `on`)."
            )
        self._smoothing = pair.label_smoothing if self.label_smoothing is None else self.label_smoothing
        if self._smoothing and (pair.task.form != "softmax" or len(pair.task.logit_fields) > 1):
            raise IncompatiblePair(
                f"label smoothing of {self._smoothing:g} on a {pair.task.name} task: there is no single class to "
                "smooth. Set label_smoothing_factor=0."
            )

    @property
    def blanks(self) -> Mapping[str, int]:
        task = self.pair.task
        return {task.label_names[0]: task.blank} if isinstance(task, CTC) else {}

    def mask(self, batch: Batch) -> Tensor:
        mask = self.pair.task.label_mask(batch)
        if isinstance(self.pair.task, CTC):
            self._tell_of_longer(self.pair.task.targets(batch)[0], mask)
        if self.classes == "all":
            return mask
        if self.pair.task.form == "sigmoid":
            return self.pair.own_columns(mask)
        return mask & (self.pair.own_targets(self.pair.task.targets(batch)[0]) != IGNORED)

    def _tell_of_longer(self, symbols: Tensor, mask: Tensor) -> None:
        longer = (symbols != IGNORED).any(-1) & ~mask
        self.remark(longer.any(), "a text has more symbols than its sound has frames for; it does not count")

    def summed(self, batch: Batch) -> Tensor | None:
        # The cross-entropy of an unlabelled example is 0 already.
        whole_examples = self.pair.task.form == "softmax" and not self.pair.task.tokens
        return None if whole_examples else self.mask(batch)

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise DistillationError("objective 'labels' got no targets.")
        if self.pair.task.form != "alignment":
            self.check_labels(student_logits, labels)
        if self.classes == "new":
            is_class = self.pair.task.form == "softmax"
            labels = self.pair.own_targets(labels) if is_class else self.pair.own_columns(labels)
            student_logits = self.pair.own_columns(student_logits)
        return self.pair.task.label_values(student_logits, labels, label_smoothing=self._smoothing)
