"""Texts of one class answered alike."""

from __future__ import annotations

from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.losses import at_least_float32, forward_kl, masked_sum
from hf_distill.objectives.base import Objective
from hf_distill.objectives.batching import ClassPairs
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_number
from hf_distill.passes import FOUND, Partner
from hf_distill.tasks import Batch, Task

LOGITS, PARTNERS = Signal("logits"), Signal("logits", source=Partner())


@register("cs_kd")
class CSKD(Objective):
    """Class-wise self-knowledge distillation (Yun, Park, Lee & Shin, 2020, arXiv:2003.13964).

    L = T^2 KL(softmax(z(x') / T) || softmax(z(x) / T)) of each text x, x' another text of the same class: a student
    learns from its own answer to the partner, which is given without gradient, by the same weights and in training
    mode. The whole method is `labels` + weight * `cs_kd`; the paper's weight is 1 and T is 4, as in the authors' code,
    whose cross-entropy is that of the texts x alone, too. No teacher.

    `DistillationTrainer` draws the partner of each row from (seed, epoch, row), so a resumed run sees the same ones.
    A text whose class has no other, or that has no label, has no partner and does not count; the trainer warns of such
    classes by name.

    Reads: logits of the student, [batch, classes], of the batch and of its partners (the pass `partner`).  Counts:
    texts that have a partner.
    Errors: `IncompatiblePair` for another task than single-label classification; `DataError` for a batch without
    partners.
    """

    needs_teacher = False
    batching = ClassPairs()
    citation = """@inproceedings{yun2020regularizing,
  title = {Regularizing Class-wise Predictions via Self-knowledge Distillation},
  author = {Yun, Sukmin and Park, Jongjin and Lee, Kimin and Shin, Jinwoo},
  booktitle = {CVPR},
  year = {2020},
  eprint = {2003.13964},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, temperature: float = 4.0) -> None:
        super().__init__()
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        self.temperature = temperature

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.task.name != "single_label" or pair.student.num_logits < 2:
            raise IncompatiblePair(
                f"{self.name}: it pairs texts of one class, and a {pair.task.name} task with "
                f"{pair.student.num_logits} outputs has no classes of texts; it is for single_label."
            )

    def needs(self) -> Needs:
        return Needs.of([LOGITS, PARTNERS])

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        return self._found(batch).sum()

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        ours = at_least_float32(student.logits) / self.temperature
        partners = at_least_float32(student.in_pass(PARTNERS.source).logits.detach()) / self.temperature
        return masked_sum(forward_kl(ours, partners) * self.temperature**2, self._found(batch))

    def _found(self, batch: Batch) -> Tensor:
        if FOUND not in batch:
            raise DataError(
                f"{self.name}: the batch has no column {FOUND!r}, only {', '.join(batch)}. Train with "
                "DistillationTrainer, which gives the rows of its training data partners of their class."
            )
        return batch[FOUND].bool()
