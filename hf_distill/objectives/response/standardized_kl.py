"""Soft targets from standardised logits."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import forward_kl, standardized
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.soft_rows import SoftRows, number_of_classes

DDOF = {"population": 0, "sample": 1}
"""What is taken off the number of classes in the variance."""


@register("standardized_kl")
class StandardizedKL(SoftRows):
    """Logit standardisation (Sun, Ren, Li, Wang & Cao, 2024, arXiv:2403.01427).

    Z(z) = (z - mean z) / (std z + 1e-7) over the classes of a row, for both models, and L = T^2 KL(softmax(Z(teacher)
    / T) || softmax(Z(student) / T)): the student follows the relations among its teacher's logits, not their size. The
    gradient passes through the student's mean and std. A row of equal logits says nothing: its Z is 0, and so is its
    gradient.

    `deviation="population"` divides the squares by the number of classes, as the paper writes it (unconfirmed),
    `sample` by one less, as torch's `std` in the authors' code. That code runs at T = 2 and gives the term a weight of
    9 beside 0.1 for the labels.

    Reads: logits of both.  Counts: tokens or examples.
    Errors: `IncompatiblePair` for two classes, where Z is 1 and -1 whatever the model says, for tasks without a single
    class a row, and for tokens that the task does not have; `DistillationError` for a setting out of range.
    """

    citation = """@inproceedings{sun2024logit,
  title = {Logit Standardization in Knowledge Distillation},
  author = {Sun, Shangquan and Ren, Wenqi and Li, Jingzhi and Wang, Rui and Cao, Xiaochun},
  booktitle = {CVPR},
  year = {2024},
  eprint = {2403.01427},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, temperature: float = 2.0, deviation: str = "population", tokens: str | None = None) -> None:
        super().__init__(tokens=tokens)
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        check_choice(self.name, "deviation", deviation, tuple(DDOF))
        self.temperature, self.deviation = temperature, deviation

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        number_of_classes(self.name, pair, least=3, why="two logits become 1 and -1, whatever the model says")

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        ours, theirs = (
            standardized(logits, DDOF[self.deviation]) / self.temperature for logits in (student_logits, teacher_rows)
        )
        silent = (theirs == 0).all(-1).any()
        if not self.pair.task.tokens:  # rows of padding are blank
            silent = silent | (ours == 0).all(-1).any()
        self.remark(silent, "a row has equal logits for all classes, and so no order to learn from.")
        return self.temperature**2 * forward_kl(ours, theirs)
