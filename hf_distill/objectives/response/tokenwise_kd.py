"""Soft targets at every token."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import forward_kl, reverse_kl
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.soft_rows import SoftRows, number_of_classes

EVERY_TOKEN = ("all", "attention")
"""How the tasks call the positions of all real tokens."""


@register("tokenwise_kd")
class TokenwiseKD(SoftRows):
    """Pixel-wise distillation (Liu, Chen, Liu, Qin, Luo & Wang, 2019, arXiv:1903.04197), with tokens for pixels.

    L = T^2 KL(p || q) at every real token, labelled or not, with p = softmax(teacher / T), q = softmax(student / T).
    `tokens` takes fewer: `labeled` or `masked` ones. `direction="student_first"` is KL(q || p), which the paper writes
    (unconfirmed); `teacher_first`, the default, is what its code minimises, as a cross-entropy to the teacher. It has
    T = 1, a sum over the examples of a batch of 8 in place of their mean, and a weight of 10.

    The paper adds `pairwise_kd` between the states of the tokens and `holistic_kd`, a discriminator over all of them.

    Reads: logits of both, [batch, length, classes].  Counts: tokens.
    Errors: `IncompatiblePair` for a task without a class a token, and for tokens that it does not have;
    `DistillationError` for a setting out of range.
    """

    citation = """@inproceedings{liu2019structured,
  title = {Structured Knowledge Distillation for Semantic Segmentation},
  author = {Liu, Yifan and Chen, Ke and Liu, Chris and Qin, Zengchang and Luo, Zhenbo and Wang, Jingdong},
  booktitle = {CVPR},
  year = {2019},
  eprint = {1903.04197},
  archivePrefix = {arXiv}
}"""

    def __init__(
        self, *, direction: str = "teacher_first", temperature: float = 1.0, tokens: str | None = None
    ) -> None:
        super().__init__(tokens=tokens)
        check_choice(self.name, "direction", direction, ("teacher_first", "student_first"))
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        self.direction, self.temperature = direction, temperature

    @property
    def tokens_read(self) -> str:
        every = [tokens for tokens in self.pair.task.tokens if tokens in EVERY_TOKEN]
        return self.tokens or (every or self.pair.task.tokens)[0]

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        number_of_classes(self.name, pair)
        if not pair.task.tokens:
            raise IncompatiblePair(f"{self.name}: a {pair.task.name} task has no answer a token; use soft_targets.")

    @property
    def softens_at(self) -> float:
        return self.temperature

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        divergence = forward_kl if self.direction == "teacher_first" else reverse_kl
        return self.temperature**2 * divergence(student_logits / self.temperature, teacher_rows / self.temperature)
