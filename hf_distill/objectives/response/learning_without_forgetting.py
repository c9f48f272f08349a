"""The answers of before, over the labels of before."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from hf_distill import losses
from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_number
from hf_distill.objectives.soft_rows import SoftRows
from hf_distill.tasks import Batch, Task

ALMOST_ANYTHING = 0.9
"""A share of the largest entropy above which answers say next to nothing."""
ENOUGH = 100
"""Batches whose entropies are looked at."""


@register("learning_without_forgetting")
class LearningWithoutForgetting(SoftRows):
    """Learning without forgetting (Li & Hoiem, 2017, arXiv:1606.09282): a student that learns new labels keeps to what
    it answered over the old ones.

    L = -sum_c p_c log q_c with p = softmax(teacher / T), q = softmax(student / T), over the labels that the teacher
    has, by their names; the student may have others (`students.grow_labels`), which take no part in q. It is the
    cross-entropy, whose smallest value is the teacher's entropy, and it is not multiplied by T^2: the gradient is
    (q - p) / T, as in the authors' code, whose temperature is 2. A multi-label task has the Bernoulli law of each old
    label, sigmoid(z / T), known or not in the data, and their mean (the paper leaves it open).

    The teacher is the model as it was. Of several, each term keeps to one (`on`): two terms are the two parts of
    distillation and retrospection (Hou, Pan, Loy, Wang & Lin, 2018, ECCV), an expert on the new labels and the old
    model on the others, and then no term needs labels. Where the mean entropy of the teacher's answers to the first
    100 batches is above 0.9 of the largest there is, they say nothing to keep, and a warning tells.

    Reads: logits of both.  Counts: examples, tokens, or for several labels an example the old ones.
    Errors: `IncompatiblePair` for a task without a law over few labels: a regression, spans, a vocabulary; and for one
    old label that excludes no other.
    """

    takes_members = False
    citation = """@article{li2017learning,
  title = {Learning without Forgetting},
  author = {Li, Zhizhong and Hoiem, Derek},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year = {2017},
  eprint = {1606.09282},
  archivePrefix = {arXiv}
}"""

    def __init__(self, *, temperature: float = 2.0) -> None:
        super().__init__(tokens=None)
        check_number(self.name, "temperature", temperature, 0.0, 1e4, open_low=True)
        self.temperature = temperature
        self._entropies: Tensor | None = None
        self._left, self._looks = ENOUGH, True

    @property
    def reaches_zero(self) -> bool:
        return False

    def bind(self, pair: Pair) -> None:
        super().bind(pair.among_shared())
        task = pair.task
        if task.vocabulary_sized or len(task.logit_fields) > 1 or task.form not in ("softmax", "sigmoid"):
            raise IncompatiblePair(
                f"{self.name}: it keeps answers over labels, and a {task.name} task has no law over a few of them; "
                "use soft_targets."
            )
        if task.form == "softmax" and self._old_labels < 2:
            raise IncompatiblePair(
                f"{self.name}: the student shares one label with its teacher, and the softmax over one is constant; "
                "there is nothing to keep."
            )

    @property
    def _old_labels(self) -> int:
        columns = self.pair.student_columns
        return self.pair.student.num_logits if columns is None else len(columns)

    def mask(self, batch: Batch) -> Tensor | None:
        """Labels of several an example say nothing of the old ones, which new data do not know."""
        return None if self.pair.task.form == "sigmoid" else super().mask(batch)

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        if task.form == "sigmoid":
            return task.num_examples(batch) * self._old_labels
        return super().count(batch, task)

    def rows(self, student_logits: Tensor, teacher_rows: Tensor | None, labels: Tensor | None) -> Tensor:
        if teacher_rows is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        law = losses.bernoulli_cross_entropy if self.pair.task.form == "sigmoid" else losses.cross_entropy
        return law(student_logits / self.temperature, teacher_rows / self.temperature)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if self.training and teacher is not None and self._looks:  # compiled, it may not read how many are left
            self._see_entropy(student, teacher, batch)
        return super().forward(student, teacher, batch)

    @torch.no_grad()
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _see_entropy(self, student: Activations, teacher: Activations, batch: Batch) -> None:
        """Adds the entropies of the teacher's answers, as shares of the largest, and their number."""
        task = self.pair.task
        tokens = next(iter(task.tokens), "")
        shown = (task.rows(each, batch, tokens)[0] for each in (student, teacher))
        _, logits = (losses.at_least_float32(each.detach()) for each in self.pair.align(*shown))
        if task.form == "sigmoid":
            shares = losses.bernoulli_cross_entropy(logits, logits) / math.log(2)
        else:
            shares = losses.cross_entropy(logits, logits) / math.log(self._old_labels)
        mask = self.mask(batch)
        counted = torch.ones_like(shares) if mask is None else mask.to(shares.dtype)
        seen = torch.stack([losses.masked_sum(shares, mask), counted.sum()])
        self._entropies = seen if self._entropies is None else self._entropies + seen
        self._left -= 1
        self._looks = self._left > 0

    def remarks(self) -> list[str]:
        """Also, once, that the teacher's answers to what the student has read so far say next to nothing."""
        found = super().remarks()
        if self._entropies is None:
            return found
        total, number = self._entropies.tolist()
        if total > ALMOST_ANYTHING * number:
            self._looks = False
            found.append(
                f"the entropy of the teacher's answers over its {self._old_labels} labels is {total / number:.0%} of "
                "the largest: these texts are far from what it knows, and there is next to nothing to keep"
            )
        if not self._looks:
            self._entropies = None
        return found
