"""The largest logits of each row, with what the rest comes to: a teacher's answer without its long tail."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_distill.errors import CacheMismatch

RECORDED = "teacher/recorded"
"""The column of a batch that says at which positions there is a record of a teacher that told of some alone, boolean
`[batch, length]`. Where there is none, logits of the teacher mean nothing, and are not counted."""


@dataclass(frozen=True)
class TopLogits:
    """The `k` largest of `num_classes` logits in every row.

    `ids` `[rows..., k]` (whole numbers) are their classes and `logits` `[rows..., k]` their values less the row's
    largest. `tails[T]` `[rows...]` is log sum exp(z / T) over the other classes, z less the row's largest as well; it
    exists for the temperatures T that were asked for when the logits were written down, and for no other, as it does
    not follow from that at another temperature.
    """

    ids: Tensor
    logits: Tensor
    tails: Mapping[float, Tensor]
    num_classes: int

    @classmethod
    def of(cls, logits: Tensor, k: int, temperatures: Sequence[float]) -> TopLogits:
        """Those of whole logits `[rows..., classes]`, all of them where there are no more than `k`."""
        kept, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
        largest = kept[..., :1]
        rest = logits.scatter(-1, ids, float("-inf")) - largest
        tails = {temperature: (rest / temperature).logsumexp(-1) for temperature in temperatures}
        return cls(ids, kept - largest, tails, logits.shape[-1])

    @property
    def k(self) -> int:
        """Classes of a row that are kept."""
        return self.ids.shape[-1]

    def __getitem__(self, rows: Any) -> TopLogits:
        """The same of some rows; `rows` indexes the leading axes, as it would those of whole logits."""
        tails = {temperature: tail[rows] for temperature, tail in self.tails.items()}
        return TopLogits(self.ids[rows], self.logits[rows], tails, self.num_classes)

    def reshape(self, *rows: int) -> TopLogits:
        """The same with other leading axes."""
        tails = {temperature: tail.reshape(*rows) for temperature, tail in self.tails.items()}
        return TopLogits(self.ids.reshape(*rows, -1), self.logits.reshape(*rows, -1), tails, self.num_classes)

    def tail(self, temperature: float) -> Tensor:
        """`[rows...]`, log sum exp(z / temperature) over the classes that are not kept.

        Raises: `CacheMismatch` for a temperature at which it was not written down.
        """
        if temperature not in self.tails:
            kept = ", ".join(f"{known:g}" for known in self.tails) or "none"
            raise CacheMismatch(
                f"the teacher's top {self.k} of {self.num_classes} logits have the sum of their tail at the "
                f"temperatures {kept}, and it is asked for at {temperature:g}: it does not follow from the others. "
                "Write the cache at this temperature, train at one of those, or cache the last hidden state, which "
                "serves any."
            )
        return self.tails[temperature]


def bucketed(student: Tensor, teacher: TopLogits, temperature: float, tail: Tensor) -> tuple[Tensor, Tensor]:
    """Student and teacher `[rows..., k + 1]`, at the temperature: the kept classes, and the rest as one class more.

    The softmax of either is the law over all classes with the tail put into a bucket. A divergence of the two is a
    lower bound of that over all classes, and equal to it where the rest is one class. `tail` `[rows...]` is the
    teacher's rest; -inf where its kept classes are taken for all of its law.
    """
    student, kept = student / temperature, teacher.logits / temperature
    ours = student.gather(-1, teacher.ids)
    if teacher.k == teacher.num_classes:
        return ours, kept
    rest = student.scatter(-1, teacher.ids, float("-inf")).logsumexp(-1, keepdim=True)
    return torch.cat([ours, rest], -1), torch.cat([kept, tail.unsqueeze(-1)], -1)


def spread(student: Tensor, teacher: TopLogits, temperature: float) -> tuple[Tensor, Tensor]:
    """Student and teacher `[rows..., classes]`, at the temperature, with the tail's mass spread evenly over the rest.

    The teacher is a flattened one: this is the divergence to it, no bound of that to the true one.
    """
    left = max(teacher.num_classes - teacher.k, 1)
    each = teacher.tail(temperature) - math.log(left)
    whole = each.unsqueeze(-1).expand(student.shape).scatter(-1, teacher.ids, teacher.logits / temperature)
    return student / temperature, whole
