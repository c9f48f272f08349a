"""Models that train together and learn from each other's answers."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, bernoulli_kl, diversity, forward_kl, masked_sum
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_flag, check_number
from hf_distill.objectives.soft_rows import SoftRows
from hf_distill.tasks import Batch


@register("deep_mutual_learning")
class DeepMutualLearning(SoftRows):
    """Deep mutual learning (Zhang, Xiang, Hospedales & Lu, 2018, arXiv:1706.00384).

    Of K models that train together, the student and its `teachers.Peers`, each learns the labels and the answers of
    the others: L_k = H(y, p_k) + 1/(K-1) sum_{l != k} T^2 KL(p_l || p_k), p = softmax(z / T), where no gradient
    reaches p_l. This objective is the second part, evaluated for every model and added up; `labels` beside it are the
    first. The paper has T = 1 and the weight 1.

    All models move in the same step, as in the authors' code; the paper's algorithm moves one after another and
    predicts anew in between (unconfirmed), which would take as many steps of the optimizer, and is not offered. With
    `average=False` the sum over the others is not divided by K - 1, as in that code; with two models it is the same.
    A multi-label task compares Bernoulli laws, a number at a time.

    Reads: logits of all models.  Counts: tokens or examples.  Logs `diversity`, the mean over rows and pairs of models
    of |p_k - p_l| at T = 1, where the classes are no vocabulary.
    Errors: `DistillationError` without peers, and for a setting out of range; `IncompatiblePair` for regression, whose
    scores are no laws, and for tokens that the task does not have.
    """

    among_peers = True
    citation = """@inproceedings{zhang2018deep,
  title = {Deep Mutual Learning},
  author = {Zhang, Ying and Xiang, Tao and Hospedales, Timothy M. and Lu, Huchuan},
  booktitle = {CVPR},
  year = {2018},
  eprint = {1706.00384},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, temperature: float = 1.0, average: bool = True, tokens: str | None = None) -> None:
        super().__init__(tokens=tokens)
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        check_flag(self.name, "average", average)
        self.temperature, self.average = temperature, average
        self._others = 1

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.task.form == "identity":
            raise IncompatiblePair(
                f"{self.name}: models learn from each other's laws over classes, and the scores of a {pair.task.name} "
                "task are none; use soft_targets, which has a form for them."
            )
        self._others = 1 if pair.members is None else len(pair.members)

    @property
    def softens_at(self) -> float | None:
        return self.temperature

    @property
    def sums_rows(self) -> bool:
        """`values` adds to what is logged, and nothing to the sum."""
        return True

    @property
    def logs(self) -> tuple[str, ...]:
        return () if self.pair.task.vocabulary_sized or self.pair.task.form != "softmax" else ("diversity",)

    def values(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        values = super().values(student, teacher, batch)
        if self.logs and teacher is not None and teacher.members:
            self._note_diversity([student, *teacher.members.values()], batch)
        return values

    @torch.no_grad()
    def _note_diversity(self, models: list[Activations], batch: Batch) -> None:
        shown = [map(at_least_float32, self.pair.task.rows(model, batch, self.tokens_read)) for model in models]
        apart = [diversity(torch.stack(rows)) for rows in zip(*shown, strict=True)]
        self.note("diversity", masked_sum(sum(apart[1:], apart[0]) / len(apart), self.mask(batch)))

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        divergence = forward_kl if self.pair.task.form == "softmax" else bernoulli_kl
        values = divergence(student_logits / self.temperature, teacher_rows / self.temperature)
        return self.temperature**2 * (1 if self.average else self._others) * values
