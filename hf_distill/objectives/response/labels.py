"""Hard labels."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import label_loss
from hf_distill.objectives.base import RowWise, check_number, register
from hf_distill.objectives.pair import Pair
from hf_distill.tasks import Batch


@register("labels")
class Labels(RowWise):
    """The task's own loss on its labels.

    With q = softmax(student), softmax tasks have -log q_y, or with label smoothing e (Szegedy et al., 2016,
    arXiv:1512.00567) (1 - e) (-log q_y) + e mean_c(-log q_c). Multi-label: binary cross-entropy of each known label.
    Regression: (score - target)^2 of each score. Question answering: the mean of start and end. Labels of -100 do not
    count.

    Reads: logits of the student.  Counts: labels (positions, elements or examples that carry one).
    `label_smoothing`: None takes the training arguments' `label_smoothing_factor`.
    Errors: `IncompatiblePair` for label smoothing where the task has no single class a row; `DataError` for labels
    that are missing or of another shape or kind than the task's.
    """

    needs_teacher = False
    needs_labels = True

    def __init__(self, *, label_smoothing: float | None = None) -> None:
        super().__init__()
        if label_smoothing is not None:
            check_number("labels", "label_smoothing", label_smoothing, 0.0, 1.0)
        self.label_smoothing = label_smoothing
        self._smoothing = 0.0

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        self._smoothing = pair.label_smoothing if self.label_smoothing is None else self.label_smoothing
        if self._smoothing and (pair.task.form != "softmax" or len(pair.task.logit_fields) > 1):
            raise IncompatiblePair(
                f"label smoothing of {self._smoothing:g} on a {pair.task.name} task: there is no single class to "
                "smooth. Set label_smoothing_factor=0."
            )

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    def summed(self, batch: Batch) -> Tensor | None:
        # The cross-entropy of an unlabelled example is 0 already.
        whole_examples = self.pair.task.form == "softmax" and not self.pair.task.tokens
        return None if whole_examples else self.mask(batch)

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise DistillationError("objective 'labels' got no targets.")
        self.check_labels(student_logits, labels)
        return label_loss(student_logits, labels, self.pair.task.form, label_smoothing=self._smoothing)
