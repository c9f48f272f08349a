"""Soft targets of a teacher that is made up from the label."""

from __future__ import annotations

import logging
import math

from torch import Tensor
from torch.nn import functional

from hf_distill.errors import DistillationError
from hf_distill.losses import label_loss
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.soft_rows import number_of_classes
from hf_distill.tasks import Batch

logger = logging.getLogger(__name__)


@register("tf_kd_reg")
class TfKDReg(RowWise):
    """Teacher-free regularisation, Tf-KD_reg (Yuan, Tay, Li, Wang & Feng, 2020, arXiv:1909.11723).

    L = (1 - alpha) (-log q_y) + alpha multiplier KL(u || softmax(z / T)), with the student's logits z, q = softmax(z)
    and the label y. The virtual teacher u is the softmax of v / T, where v are probabilities already: a for the label,
    (1 - a) / (K - 1) for each of the other K - 1 classes, a = `correct_probability`. No teacher runs.

    `form="code"` is what the authors' code does: the student's logits are not divided by T, and the divergence is a
    mean over the classes, which a `multiplier` (100 in the code, 1 in the paper) makes up for. The paper asks for a of
    0.9 or more and T of 20 or more; the code has a = 0.99. With two classes and T = 20 the virtual teacher is (0.512,
    0.488), so that the pull is to no answer at all: take a T of 2 to 5 for few classes, or label smoothing, which the
    arguments' `label_smoothing_factor` gives -log q_y as in `labels`.

    Reads: logits of the student, and the labels.  Counts: labels.
    Errors: `IncompatiblePair` for one class, and for tasks without a single class a row; `DistillationError` for a
    setting out of range; `DataError` for labels that are missing or of another shape or kind than the task's. A
    virtual teacher that prefers another class than the label's, a below 1 / K, is warned about.
    """

    needs_teacher = False
    needs_labels = True
    citation = """@inproceedings{yuan2020revisiting,
  title = {Revisiting Knowledge Distillation via Label Smoothing Regularization},
  author = {Yuan, Li and Tay, Francis E. H. and Li, Guilin and Wang, Tao and Feng, Jiashi},
  booktitle = {CVPR},
  year = {2020},
  eprint = {1909.11723},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        correct_probability: float = 0.99,
        temperature: float = 20.0,
        form: str = "paper",
        multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        check_number(self.name, "alpha", alpha, 0.0, 1.0)
        check_number(self.name, "correct_probability", correct_probability, 0.0, 1.0)
        check_number(self.name, "temperature", temperature, 0.01, 1e4)
        check_choice(self.name, "form", form, ("paper", "code"))
        check_number(self.name, "multiplier", multiplier, 0.0, 1e6)
        self.alpha, self.correct_probability, self.temperature = alpha, correct_probability, temperature
        self.form, self.multiplier = form, multiplier

    @property
    def equation(self) -> str:
        divided, mean = (" / T", "") if self.form == "paper" else ("", "(1/K) ")
        pull = f"{self.alpha * self.multiplier:g} {mean}KL(u || softmax(z{divided}))"
        virtual = f"u = softmax(v / T), v = {self.correct_probability:g} for the label, T = {self.temperature:g}"
        return f"L = {1 - self.alpha:g} (-log q_y) + {pull}, q = softmax(z) the student's, {virtual}"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        classes = number_of_classes(self.name, pair)
        if self.correct_probability <= 1 / classes:
            logger.warning(
                "tf_kd_reg: correct_probability is %g with %d classes; the virtual teacher prefers the label's class "
                "above %g alone",
                self.correct_probability,
                classes,
                1 / classes,
            )

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if labels is None:
            raise DistillationError(f"objective {self.name!r} got no labels.")
        self.check_labels(student_logits, labels)
        hard = label_loss(student_logits, labels, "softmax", label_smoothing=self.pair.label_smoothing)
        classes = student_logits.shape[-1]
        on, off = self._virtual(classes)
        log_q = functional.log_softmax(student_logits / (self.temperature if self.form == "paper" else 1.0), -1)
        log_target = log_q.gather(-1, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        entropy = -sum(number * u * math.log(u) for number, u in ((1, on), (classes - 1, off)) if u > 0)
        divergence = -entropy - off * log_q.sum(-1) - (on - off) * log_target
        per_row = divergence / classes if self.form == "code" else divergence
        return (1.0 - self.alpha) * hard + self.alpha * self.multiplier * per_row

    def _virtual(self, classes: int) -> tuple[float, float]:
        """What the virtual teacher gives the label's class, and each of the others."""
        others = (1.0 - self.correct_probability) / (classes - 1)
        ratio = math.exp((others - self.correct_probability) / self.temperature)
        on = 1.0 / (1.0 + (classes - 1) * ratio)
        return on, ratio * on
