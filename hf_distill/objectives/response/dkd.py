"""The target class and the others, told apart."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import forward_kl, standardized
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.settings import check_flag, check_number
from hf_distill.objectives.soft_rows import number_of_classes
from hf_distill.tasks import Batch


@register("dkd")
class DKD(RowWise):
    """Decoupled knowledge distillation (Zhao, Cui, Song, Qiu & Liang, 2022, arXiv:2203.08679).

    With p = softmax(teacher / T), q = softmax(student / T) and the label y of a row,
    L = T^2 (alpha KL((p_y, 1 - p_y) || (q_y, 1 - q_y)) + beta KL(p' || q')), where p' and q' are p and q without the
    class y, renormalised. Soft targets are the case alpha = 1 and beta = 1 - p_y, which silences what a confident
    teacher says of the other classes; a constant beta does not. Everything is taken in log space, so that a saturated
    student keeps a finite value.

    The defaults are those of the authors' code for CIFAR-100, where beta differs by the pair of models, the labels
    have a term of weight 1, and the weight of this one rises linearly over the first 20 of 240 epochs. For texts begin
    with a beta of 1 or 2. The paper has no vocabularies; there y is the word at a labelled position.

    `standardize=True` takes (z - mean z) / std z for the logits of both first (Sun et al., 2024, arXiv:2403.01427).

    Reads: logits of both, and the labels.  Counts: labels.
    Errors: `IncompatiblePair` for two classes, of which there is nothing left without y, and for tasks without a
    single class a row; `DistillationError` for a setting out of range; `DataError` for labels that are missing or of
    another shape or kind than the task's.
    """

    needs_labels = True
    citation = """@inproceedings{zhao2022decoupled,
  title = {Decoupled Knowledge Distillation},
  author = {Zhao, Borui and Cui, Quan and Song, Renjie and Qiu, Yiyu and Liang, Jiajun},
  booktitle = {CVPR},
  year = {2022},
  eprint = {2203.08679},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self, *, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, standardize: bool = False
    ) -> None:
        super().__init__()
        check_number(self.name, "alpha", alpha, 0.0, 1e4)
        check_number(self.name, "beta", beta, 0.0, 1e4)
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        check_flag(self.name, "standardize", standardize)
        self.alpha, self.beta, self.temperature, self.standardize = alpha, beta, temperature, standardize

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        number_of_classes(self.name, pair, least=3, why="without the label's class there must be a choice left")

    @property
    def softens_at(self) -> float | None:
        return None if self.standardize else self.temperature

    def mask(self, batch: Batch) -> Tensor:
        return self.pair.task.label_mask(batch)

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None or labels is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits, or no labels.")
        self.check_labels(student_logits, labels)
        target = labels.clamp(min=0).unsqueeze(-1)
        is_target = torch.arange(student_logits.shape[-1], device=target.device) == target
        two, others = [], []
        for logits in (student_logits, teacher_rows):
            scaled = (standardized(logits) if self.standardize else logits) / self.temperature
            # The lowest number, not -inf: the class y has no mass on either side, and its difference is 0.
            rest = scaled.masked_fill(is_target, torch.finfo(scaled.dtype).min)
            two.append(torch.cat([scaled.gather(-1, target), rest.logsumexp(-1, keepdim=True)], -1))
            others.append(rest)
        value = self.alpha * forward_kl(two[0], two[1]) + self.beta * forward_kl(others[0], others[1])
        return self.temperature**2 * value
