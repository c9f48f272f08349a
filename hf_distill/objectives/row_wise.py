"""Objectives that are a sum over rows of logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hf_distill.activations import MAIN, Activations, Needs, Signal
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.losses import at_least_float32, blank, masked_sum
from hf_distill.member_logits import Combining, MemberLogits, normalised
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.tasks import Batch, Task


class RowWise(Objective):
    """An objective that is a sum over rows of logits: it writes `rows(...)` and inherits the rest.

    The sum is that of `rows` over `row_divisors`, over the rows that count, and it may be taken over some rows at a
    time: of a large vocabulary the logits then never exist in full (`vocabulary.py`). `needs_labels`: whether `rows`
    gets the labels of the rows.
    """

    needs_labels: ClassVar[bool] = False
    takes_alignments: ClassVar[bool] = False
    """Whether it takes rows that are frames of one example together, whose labels have no frame of their own."""
    takes_members = True

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if not pair.task.logit_fields:
            raise IncompatiblePair(
                f"objective {self.name!r} reads logits, and the student ({pair.student.family}) is a model without a "
                "head; load it with one (AutoModelFor…), or take objectives of hidden states and relations alone."
            )
        if pair.task.form == "alignment" and not self.takes_alignments:
            raise IncompatiblePair(
                f"objective {self.name!r} compares row with row, and frames of a {pair.task.name} task do not answer "
                "to each other: two models may hear the same symbol at other moments. Take ctc_nbest_kd or labels."
            )
        if self.needs_teacher and pair.temperatures is not None:
            self.check_top_logits(pair.temperatures)
        if self.needs_teacher and pair.combining is not None:
            self._check_members(pair, pair.combining)

    def _check_members(self, pair: Pair, combining: Combining) -> None:
        """Raises: `IncompatiblePair` where several teachers give no logits that the objective could read."""
        remedy = f"Put the term on one of them (Term.on), which are {', '.join(pair.members or ())}."
        if not self.sums_rows:
            raise IncompatiblePair(f"objective {self.name!r} reads the logits of one teacher. {remedy}")
        if any(each.temperatures is not None for each in (pair.members or {}).values()):
            raise IncompatiblePair(
                f"objective {self.name!r} reads all logits of all teachers, and the cache of one has the largest "
                f"alone (codec top_k), which cannot be averaged. {remedy}"
            )
        if combining.combine == "prob" and self.softens_at is None and pair.task.form != "identity":
            raise IncompatiblePair(
                f"objective {self.name!r} with these settings reads raw logits, and an average of probabilities has "
                f"none; combine the teachers by 'logit' or 'losses'. {remedy}"
            )

    @property
    def for_every_peer(self) -> bool:
        """What it reads is the answer to the batch as it came, and it learns nothing of one model."""
        in_main = all(signal.source == MAIN for signal in self.needs().student)
        learns = any(name != "log_variance" for name, _ in self.named_parameters())
        return in_main and not self.pair.member and not learns

    @property
    def softens_at(self) -> float | None:
        """The temperature that divides the teacher's logits before their softmax, and is the one way in which they are
        read; None where they are read as they are. Averages of several teachers' probabilities are taken at it."""
        return None

    @property
    def reads_labels(self) -> bool:
        """Whether labels are looked at: by the objective, or to weigh several teachers by them."""
        combining = self.pair.combining if self.needs_teacher else None
        return self.needs_labels or (combining is not None and combining.reads_labels)

    def check_top_logits(self, temperatures: tuple[float, ...]) -> None:
        """Refuse a teacher that shows its largest logits alone, with the sum of the rest at these temperatures; an
        objective that overrides this takes `TopLogits` as `teacher_rows`.

        Raises: `IncompatiblePair`.
        """
        raise IncompatiblePair(
            f"objective {self.name!r} reads all logits of the teacher, and its cache has the largest alone (codec "
            "top_k). Cache the last hidden state, or train with the teacher itself."
        )

    def rows(self, student_logits: Tensor, teacher_rows: Any, labels: Tensor | None) -> Tensor:
        """One value a row. `student_logits` `[rows..., classes]`; `teacher_rows` the same, `TopLogits`, or None;
        `labels` `[rows...]` or None."""
        raise NotImplementedError

    @property
    def sums_rows(self) -> bool:
        """Whether it is what `rows` gives, summed as here, and so may be taken over some rows at a time."""
        own = type(self)
        return own.forward is RowWise.forward and own.values is RowWise.values and own.compare is RowWise.compare

    def mask(self, batch: Batch) -> Tensor | None:
        """Which rows count; None for all."""
        raise NotImplementedError

    def summed(self, batch: Batch) -> Tensor | None:
        """Which rows the sum runs over; None for all, where the value of a row that does not count is 0 anyway."""
        return self.mask(batch)

    def row_divisors(self, batch: Batch) -> Tensor | int:
        """What the value of a row that counts is divided by: a number, or a tensor that broadcasts to the rows."""
        return 1

    @property
    def tokens_read(self) -> str:
        """The choice of rows that is asked of the task; empty for its default."""
        return ""

    def needs(self) -> Needs:
        signals = [Signal(field) for field in self.pair.task.logit_fields]
        return Needs.of(signals, signals if self.needs_teacher else ())

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        mask = self.mask(batch)
        return task.num_examples(batch) if mask is None else mask.sum()

    def values(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        """The value of every row, those that do not count included (their gradient is cut by `mask`)."""
        task = self.pair.task
        mask = self.mask(batch) if task.tokens else None
        tokens = self.tokens_read or next(iter(task.tokens), "")
        student_rows = task.rows(student, batch, tokens)
        teacher_rows = self._teacher_rows(teacher, batch, tokens)
        targets = task.targets(batch) if self.reads_labels else None
        total: Tensor | None = None
        for i, logits in enumerate(student_rows):
            # Padded positions may hold anything; rows that are examples or single labels hold finite logits.
            row_mask = mask if mask is not None and 1 < mask.dim() < logits.dim() else None
            against = None if teacher_rows is None else teacher_rows[i]
            value = self.compare(logits, against, targets[i] if targets else None, row_mask)
            total = value if total is None else total + value
        return total if len(student_rows) == 1 else total / len(student_rows)  # type: ignore[return-value, operator]

    def _teacher_rows(self, teacher: Activations | None, batch: Batch, tokens: str) -> Sequence[Any] | None:
        """The teacher's rows, or those of several teachers together."""
        task, combining = self.pair.task, self.pair.combining
        if teacher is None or not self.needs_teacher:
            return None
        if combining is None:
            return task.rows(teacher, batch, tokens)
        shown = {name: task.rows(each, batch, tokens) for name, each in teacher.members.items()}
        domain = batch[combining.column] if combining.routing == "domain" else None
        counted = self.mask(batch) if combining.tally is not None else None
        together = [dict(zip(shown, rows, strict=True)) for rows in zip(*shown.values(), strict=True)]
        return [MemberLogits(logits, combining, task.form, domain=domain, counted=counted) for logits in together]

    def compare(self, logits: Tensor, against: Any, labels: Tensor | None, mask: Tensor | None = None) -> Tensor:
        """The value of each of some rows of logits, as the models gave them; rows outside `mask` get no gradient."""
        if isinstance(against, MemberLogits):
            return self._compare_members(logits, against, labels, mask)
        if isinstance(against, Tensor):
            logits, against = self.pair.align(logits, against)
            against = at_least_float32(against.detach())
        return self.rows(blank(at_least_float32(logits), mask), against, labels if self.needs_labels else None)

    def _compare_members(
        self, logits: Tensor, against: MemberLogits, labels: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """The value against several teachers: to what they answer together, or the weighted sum over them."""
        logits, theirs = self.pair.align_members(logits, against.logits)
        theirs = {name: at_least_float32(each.detach()) for name, each in theirs.items()}
        ours, hard = blank(at_least_float32(logits), mask), labels if self.needs_labels else None
        together = replace(against, logits=theirs, labels=labels)
        if labels is not None and labels.shape != (ours.shape[:-1] if against.form == "softmax" else ours.shape):
            raise IncompatiblePair(
                f"objective {self.name!r} compares rows of shape {tuple(ours.shape)}, and the labels that weigh the "
                f"teachers are of shape {tuple(labels.shape)}; leave out `tokens`, or weigh the teachers by numbers."
            )
        if together.combining.combine != "losses":
            return self.rows(ours, together.at(self.softens_at or 1.0), hard)
        values = torch.stack([self.rows(ours, each, hard) for each in theirs.values()])
        return (values * normalised(together.weights()).to(values.dtype)).sum(0)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        values, divisors = self.values(student, teacher, batch), self.row_divisors(batch)
        undivided = isinstance(divisors, int) and divisors == 1
        return masked_sum(values if undivided else values / divisors, self.summed(batch))

    def check_labels(self, student_logits: Tensor, labels: Tensor) -> None:
        """Refuse shapes and kinds of labels that torch would broadcast, or refuse without a word about the data."""
        task = self.pair.task
        expected = student_logits.shape[:-1] if task.form == "softmax" else student_logits.shape
        if labels.shape != expected:
            raise DataError(
                f"labels of shape {tuple(labels.shape)} for {task.name} logits of shape "
                f"{tuple(student_logits.shape)}; they must have the shape {tuple(expected)}. Look at the label column "
                "and at config.problem_type."
            )
        if task.form == "softmax" and labels.is_floating_point():
            raise DataError(
                f"labels of {labels.dtype} for a {task.name} task; classes are whole numbers. Cast the label column, "
                "or set config.problem_type."
            )
