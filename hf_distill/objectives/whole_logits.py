"""What objectives share that relate the answers of a batch to each other, and so need all of its logits at once."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32, blank
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_flag
from hf_distill.objectives.soft_rows import SoftRows
from hf_distill.tasks import Batch, Task


class Answers(NamedTuple):
    """Logits of both models `[rows..., classes]`, zeros in rows that do not count, and which count."""

    student: Tensor
    teacher: Tensor
    mask: Tensor | None


class WholeLogits(SoftRows):
    """An objective that a batch has one value of, made of the logits of all its rows.

    It counts batches: with several to a step, or several processes, the values of the micro-batches are averaged,
    which is not the value of them all together. `whole_logits=True` takes a vocabulary, too: of n tokens and V words
    it holds several tensors of n V numbers in float32, where other objectives go through the vocabulary in chunks.
    """

    relates_batch = True
    takes_members = False

    def __init__(self, *, tokens: str | None, whole_logits: bool) -> None:
        super().__init__(tokens=tokens)
        check_flag(self.name, "whole_logits", whole_logits)
        self.whole_logits = whole_logits

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.has_large_vocabulary and not self.whole_logits:
            raise IncompatiblePair(
                f"{self.name}: the student predicts one of {pair.student.num_logits} words, and this loss needs the "
                "logits of all tokens of a batch at once. Set whole_logits=True if the memory has room for several "
                "tensors of tokens x words in float32, or use soft_targets."
            )

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        return 1 if mask is None else mask.any().long()

    def answers(self, student: Activations, teacher: Activations | None, batch: Batch) -> Answers:
        """The logits of both, aligned, in at least float32; the teacher's are detached."""
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        task, mask = self.pair.task, self.mask(batch)
        tokens = self.tokens_read or next(iter(task.tokens), "")
        ours, theirs = self.pair.align(task.rows(student, batch, tokens)[0], task.rows(teacher, batch, tokens)[0])
        return Answers(blank(at_least_float32(ours), mask), blank(at_least_float32(theirs.detach()), mask), mask)


def refuse_to_gather_tokens(objective: str, pair: Pair) -> None:
    """Raises: `IncompatiblePair` where the rows that the processes would exchange are tokens."""
    if pair.task.tokens:
        raise IncompatiblePair(
            f"{objective}: gather=True relates the examples of all processes, and the rows of a {pair.task.name} task "
            "are tokens, of which every process has another number; leave gather out."
        )
