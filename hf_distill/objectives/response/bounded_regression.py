"""Scores that are pulled until they are better than the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import squared_difference
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.tasks import Batch


@register("bounded_regression")
class BoundedRegression(RowWise):
    """Teacher-bounded regression (Chen, Choi, Yu, Han & Chandraker, 2017, NeurIPS, no arXiv id).

    For each score L = base(s, y) + nu bounded, with the student's score s, the teacher's t and the target y: bounded
    is (s - y)^2 where (s - y)^2 + margin > (t - y)^2, and 0 where the student is better than its teacher by more than
    the margin. The teacher's score is a bound and no target, for it may lie on the wrong side of y.

    `base` is the loss that is there anyway, so no labels term is needed beside: `smooth_l1` in the paper, which
    regresses boxes around objects, `mse` in the regression heads of transformers. nu = 0.5 is the paper's
    (unconfirmed); it names no margin, and 0 is the default here.

    Reads: logits of both (the scores), and the labels.  Counts: scores that have a target.
    Errors: `IncompatiblePair` for a task that is no regression; `DistillationError` for a setting out of range;
    `DataError` for labels that are missing or of another shape.
    """

    needs_labels = True
    citation = """@inproceedings{chen2017learning,
  title = {Learning Efficient Object Detection Models with Knowledge Distillation},
  author = {Chen, Guobin and Choi, Wongun and Yu, Xiang and Han, Tony and Chandraker, Manmohan},
  booktitle = {NeurIPS},
  year = {2017},
  url = {https://papers.nips.cc/paper/6676-learning-efficient-object-detection-models-with-knowledge-distillation}
}"""

    def __init__(self, *, margin: float = 0.0, nu: float = 0.5, base: str = "smooth_l1") -> None:
        super().__init__()
        check_number(self.name, "margin", margin, 0.0, 1e6)
        check_number(self.name, "nu", nu, 0.0, 1e4)
        check_choice(self.name, "base", base, ("smooth_l1", "mse"))
        self.margin, self.nu, self.base = margin, nu, base

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.task.form != "identity":
            raise IncompatiblePair(
                f"{self.name}: a {pair.task.name} task has no scores; use soft_targets, or set "
                "config.problem_type='regression'."
            )

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    @property
    def reaches_zero(self) -> bool:
        return False

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None or labels is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits, or no labels.")
        self.check_labels(student_logits, labels)
        targets = labels.to(student_logits.dtype)
        squared = squared_difference(student_logits, targets)
        worse = squared + self.margin > squared_difference(teacher_rows, targets)
        base = squared if self.base == "mse" else functional.smooth_l1_loss(student_logits, targets, reduction="none")
        return base + self.nu * torch.where(worse, squared, 0.0)
