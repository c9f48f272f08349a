"""Hard labels."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.base import RowWise, check_number, register
from hf_distill.objectives.pair import Pair
from hf_distill.tasks import IGNORED, Batch


@register("labels")
class Labels(RowWise):
    """The task's own loss on its labels.

    Softmax tasks: -log q_y, with label smoothing e: (1 - e) (-log q_y) + e mean_c(-log q_c). Multi-label: binary cross-entropy
    of each known label. Regression: (score - target)^2 of each score. Labels of -100 do not count.

    Reads: student logits.  Counts: labels (positions, elements or examples that carry one).
    `label_smoothing`: None takes the training arguments' `label_smoothing_factor`.
    Errors: `IncompatiblePair` for label smoothing where the task has no single class a row.
    """

    needs_teacher = False

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
                f"label smoothing of {self._smoothing:g} on a {pair.task.name} task: there is no single class to smooth. "
                "Set label_smoothing_factor=0."
            )

    def mask(self, batch: Batch) -> Tensor:
        missing = [name for name in self.pair.task.label_names if name not in batch]
        if missing:
            raise DistillationError(
                f"objective 'labels' needs the column {missing[0]!r}; the batch has {', '.join(batch)}. Add labels, or train "
                "on soft targets alone."
            )
        return self.pair.task.label_mask(batch)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if self.pair.task.form == "softmax" and not self.pair.task.tokens:
            return self.values(student, teacher, batch).sum()  # the cross-entropy of an unlabelled example is 0 already
        return super().forward(student, teacher, batch)

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise DistillationError("objective 'labels' got no targets.")
        if self.pair.task.form == "identity":
            return functional.mse_loss(student_logits, labels.to(student_logits.dtype), reduction="none")
        if self.pair.task.form == "sigmoid":
            known = labels.to(student_logits.dtype).clamp(min=0.0)
            return functional.binary_cross_entropy_with_logits(student_logits, known, reduction="none")
        flat = functional.cross_entropy(
            student_logits.flatten(0, -2),
            labels.flatten(),
            ignore_index=IGNORED,
            reduction="none",
            label_smoothing=self._smoothing,
        )
        return flat.view(labels.shape)
