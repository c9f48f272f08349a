"""Logits of a teacher that becomes as sharp as it is step by step."""

from __future__ import annotations

import math

from torch import Tensor

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import squared_difference
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_number
from hf_distill.objectives.soft_rows import SoftRows


@register("annealing")
class Annealing(SoftRows):
    """Annealing-KD, first phase (Jafari, Rezagholizadeh, Sharma & Ghodsi, 2021, arXiv:2104.07163).

    L = (1/C) sum_c (student_c - phi teacher_c)^2 on raw logits, with phi = 1 - (tau - 1) / max_temperature. The
    temperature tau falls from `max_temperature` to 1 in as many equal blocks of the training, so that phi rises from
    1 / max_temperature to 1: targets that are easy at first and in the end the teacher's. `phi(progress,
    max_temperature)` is that number, `progress` the share of the steps that are done, which the trainer sets.

    The second phase trains on the labels alone, as a stage of its own, from the best model of the first. The paper
    writes a squared norm and its code takes the mean over classes; the mean is taken here, which differs by a factor
    of C. The code's counter runs past 1 where the epochs are no multiple of max_temperature; here phi ends at 1. The
    paper's max_temperature is 7 to 10 (unconfirmed).

    Scores of a regression and logits of a multi-label task are compared one by one.

    Reads: logits of both.  Counts: tokens or examples; numbers where a task has no single class a row.
    Errors: `IncompatiblePair` for question answering, whose classes are positions, and for tokens that the task does
    not have; `DistillationError` for a setting out of range, and by the trainer for fewer steps than blocks.
    """

    traceable = False  # phi is a number of its own in every block
    citation = """@inproceedings{jafari2021annealing,
  title = {Annealing Knowledge Distillation},
  author = {Jafari, Aref and Rezagholizadeh, Mehdi and Sharma, Pranav and Ghodsi, Ali},
  booktitle = {EACL},
  year = {2021},
  eprint = {2104.07163},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, max_temperature: int = 7, tokens: str | None = None) -> None:
        super().__init__(tokens=tokens)
        check_number(self.name, "max_temperature", max_temperature, 1, 1000)
        if not isinstance(max_temperature, int):
            raise DistillationError(f"{self.name}: max_temperature is {max_temperature!r}; it must be a whole number.")
        self.max_temperature = self.smallest_steps = max_temperature

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if len(pair.task.logit_fields) > 1:
            raise IncompatiblePair(
                f"{self.name}: a mean over the positions of a text would depend on padding on a {pair.task.name} "
                "task; use soft_targets."
            )

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        target = phi(self.progress, self.max_temperature) * teacher_rows
        value = squared_difference(student_logits, target)
        return value.mean(-1) if self.pair.task.form == "softmax" else value


def phi(progress: float, max_temperature: int) -> float:
    """k / max_temperature in the k-th of max_temperature equal blocks of the training; 1 at its end."""
    # A block begins with its first step, whatever the last digit of the share says.
    block = math.floor(progress * max_temperature + 1e-9) + 1
    return min(block, max_temperature) / max_temperature
