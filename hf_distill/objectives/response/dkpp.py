"""The teacher's answer, with what it says of the other classes shuffled."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import cross_entropy
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_number
from hf_distill.objectives.soft_rows import SoftRows, number_of_classes

logger = logging.getLogger(__name__)


@register("dkpp")
class DKPP(SoftRows):
    """Born-again networks, dark knowledge with permuted predictions (Furlanello et al., 2018, arXiv:1805.04770).

    L = -sum_c p'_c log q_c, with q = softmax(student) and p' the teacher's law softmax(teacher) whose largest entry
    stays where it is and whose others are permuted at random, in each row another way (form unconfirmed). It is a
    control: what the student still learns is not due to which classes the teacher finds alike.

    The permutation of a row follows from `seed` and from the bits of the teacher's logits of that row: it depends on
    no other row and is the same after a resume. Logits that differ in a last digit, as those of a batch of another
    shape may, have another one.

    Reads: logits of both.  Counts: tokens or examples.
    Errors: `IncompatiblePair` for tasks without a single class a row, and for tokens that the task does not have;
    `DistillationError` for a setting out of range. Two classes, of which there is nothing to permute, are warned
    about.
    """

    citation = """@inproceedings{furlanello2018born,
  title = {Born-Again Neural Networks},
  author = {Furlanello, Tommaso and Lipton, Zachary C. and Tschannen, Michael and Itti, Laurent and Anandkumar, Anima},
  booktitle = {ICML},
  year = {2018},
  eprint = {1805.04770},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, seed: int = 0, tokens: str | None = None) -> None:
        super().__init__(tokens=tokens)
        check_number(self.name, "seed", seed, 0, 2**32 - 1)
        if not isinstance(seed, int):
            raise DistillationError(f"{self.name}: seed is {seed!r}; it must be a whole number.")
        self.seed = seed

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if number_of_classes(self.name, pair) == 2:
            logger.warning("dkpp: two classes leave nothing to permute; this is the cross-entropy of soft targets")

    @property
    def softens_at(self) -> float:
        return 1.0

    @property
    def reaches_zero(self) -> bool:
        return False

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        return cross_entropy(student_logits, permuted(teacher_rows, drawn(teacher_rows, self.seed)))


def permuted(logits: Tensor, permutations: Tensor) -> Tensor:
    """The logits `[..., C]` of each row with those beside the largest one in another order.

    The j-th of these, counted without the largest, becomes the permutations[..., j]-th; `permutations` `[..., C - 1]`.
    """
    places = torch.arange(logits.shape[-1] - 1, device=logits.device)
    others = places + (places >= logits.argmax(-1, keepdim=True))
    return logits.scatter(-1, others, logits.gather(-1, others.gather(-1, permutations)))


def drawn(logits: Tensor, seed: int) -> Tensor:
    """A permutation `[..., C - 1]` for each row of logits `[..., C]`, made of the bits of the row and the seed."""
    places = torch.arange(logits.shape[-1], device=logits.device)
    bits = logits.float().view(torch.int32).long()
    rows = _mixed(_mixed(bits + places).sum(-1, keepdim=True) + seed)
    return _mixed(rows + places[1:]).argsort(-1)


def _mixed(whole: Tensor) -> Tensor:
    """Other whole numbers, each of whose bits depends on all of those given; products wrap around."""
    for factor in (0x2545F4914F6CDD1D, 0x369DEA0F31A53F85):
        whole = (whole ^ (whole >> 29)) * factor
    return whole ^ (whole >> 32)
