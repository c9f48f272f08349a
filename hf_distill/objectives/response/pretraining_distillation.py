"""Words and the teacher's guesses at them, mixed."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import cross_entropy
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.settings import check_number
from hf_distill.tasks import IGNORED, Batch


@register("pretraining_distillation")
class PretrainingDistillation(RowWise):
    """Pre-training distillation of MobileBERT, alpha L_MLM + (1 - alpha) L_KD (Sun et al., 2020, arXiv:2004.02984).

    At every labelled (masked) position L_MLM = -log q_y and L_KD = -T^2 sum_c p_c log q_c, with p = softmax(teacher /
    T), q = softmax(student / T) in L_KD and softmax(student) in L_MLM. The paper has T = 1, for which T^2 is 1; the
    authors' code multiplies the teacher's state by its temperature, the inverse of T.

    The paper's loss has a third part, L_NSP on whole examples. It counts other units, so it is the objective
    `next_sentence`: where the data has sentence pairs, write both terms, each with weight 1.

    Reads: logits of both, and the labels.  Counts: labels.
    Errors: `IncompatiblePair` for a task that predicts no words, and for label smoothing; `DistillationError` for a
    setting out of range; `DataError` for labels that are missing or of another shape or kind than the task's.
    """

    needs_labels = True
    citation = """@inproceedings{sun2020mobilebert,
  title = {MobileBERT: a Compact Task-Agnostic BERT for Resource-Limited Devices},
  author = {Sun, Zhiqing and Yu, Hongkun and Song, Xiaodan and Liu, Renjie and Yang, Yiming and Zhou, Denny},
  booktitle = {ACL},
  year = {2020},
  eprint = {2004.02984},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, alpha: float = 0.5, temperature: float = 1.0) -> None:
        super().__init__()
        check_number(self.name, "alpha", alpha, 0.0, 1.0)
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        self.alpha, self.temperature = alpha, temperature

    @property
    def equation(self) -> str:
        soft = f"{1.0 - self.alpha:g} (-T^2 sum_c p_c log q_c)"
        where = f"at every masked position, T = {self.temperature:g} in p and the second q"
        return f"L = {self.alpha:g} (-log q_y) + {soft} {where}"

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if not pair.task.vocabulary_sized:
            raise IncompatiblePair(
                f"{self.name}: a {pair.task.name} task predicts no words; use alpha * labels + (1 - alpha) * "
                "soft_targets instead."
            )
        if pair.label_smoothing:
            raise IncompatiblePair(
                f"{self.name}: label smoothing of {pair.label_smoothing:g} is asked for, which is no part of this "
                "loss. Set label_smoothing_factor=0; a labels term has a label_smoothing of its own."
            )

    @property
    def softens_at(self) -> float:
        return self.temperature

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None or labels is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits, or no labels.")
        self.check_labels(student_logits, labels)
        flat = functional.cross_entropy(
            student_logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        soft = cross_entropy(student_logits / self.temperature, teacher_rows / self.temperature)
        return self.alpha * flat.view(labels.shape) + (1.0 - self.alpha) * self.temperature**2 * soft
