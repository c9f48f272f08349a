"""Objectives between models that read the same text in tokens of their own."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from hf_distill.activations import Activations, Needs, Signal
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import at_least_float32
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.settings import check_choice, check_number
from hf_distill.objectives.span_sums import Side, both_sided, in_spans, span_sums
from hf_distill.tasks import IGNORED, Batch, Task, real_tokens

STUDENT_SPANS, TEACHER_SPANS = "student_spans", "teacher_spans"
"""Columns `[batch, length]` of the student's and of the teacher's tokens: the span of text that each is a part of,
counted from 0 in its row, -1 for none."""

TEACHER_LABELS = "teacher_labels"
"""The teacher's tokens where they count, -100 elsewhere, as `labels` are the student's."""

TEACHER_MASK = "teacher_attention_mask"

MERGES = ("chain_rule", "observed")
REDUCTIONS = ("example_mean", "span_mean")

UNIVERSAL = """@misc{boizard2024towards,
  title = {Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for {LLM}s},
  author = {Boizard, Nicolas and El Haddad, Kevin and Hudelot, Céline and Colombo, Pierre},
  year = {2024},
  eprint = {2402.12030},
  archivePrefix = {arXiv}
}"""
"""What universal logit distillation is cited by."""


class SpanWise(Objective):
    """An objective that is a sum over spans of text: it writes `values(...)` and inherits the rest.

    A span is the shortest piece of text at whose ends both models have the end of a token. With `merge="chain_rule"`
    its law is that of its last token, given the others, times their probabilities, each read off the row before the
    token, which predicts it: the probability of the span with any last token. `observed` is the law at its first
    token times the probabilities of the others, all read off the rows of the tokens themselves, which predict what
    comes next (TRL's default). Spans of one token have its law, as it is.

    The sum is over the spans of the batch or, with `example_mean`, over the means of the examples.
    """

    takes_two_vocabularies = True
    traceable = False
    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the parts of its value, which are logged where there are several."""

    def __init__(self, *, merge: str, reduction: str, student_temperature: float, teacher_temperature: float) -> None:
        super().__init__()
        check_choice(self.name, "merge", merge, MERGES)
        check_choice(self.name, "reduction", reduction, REDUCTIONS)
        check_number(self.name, "student_temperature", student_temperature, 0.0, 1e4, open_low=True)
        check_number(self.name, "teacher_temperature", teacher_temperature, 0.0, 1e4, open_low=True)
        self.merge, self.reduction = merge, reduction
        self.student_temperature, self.teacher_temperature = student_temperature, teacher_temperature

    def bind(self, pair: Pair) -> None:
        super().bind(pair)
        if pair.across is None:
            raise IncompatiblePair(
                f"objective {self.name!r} compares models that read tokens of their own, and these read the same. "
                "Take soft_targets; or have the teacher read by its own: teachers.Frozen(model, tokenizer=…), in a "
                "recipe `teacher: {tokenizer: own}`."
            )
        if pair.task.name != "causal_lm":
            raise IncompatiblePair(
                f"objective {self.name!r} compares what causal language models predict to come next, and the student "
                f"solves {pair.task.name}."
            )

    def needs(self) -> Needs:
        return Needs.of([Signal("logits")], [Signal("logits")])

    @property
    def columns(self) -> frozenset[str]:
        return frozenset({STUDENT_SPANS, TEACHER_SPANS, TEACHER_LABELS, TEACHER_MASK})

    @property
    def logs(self) -> tuple[str, ...]:
        return (*(self.parts if len(self.parts) > 1 else ()), "unaligned")

    def spans(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The span of what each row of logits is read for, of the student's rows and of the teacher's; -1 for none."""
        found = []
        for name, counted in zip((STUDENT_SPANS, TEACHER_SPANS), self.counted(batch), strict=True):
            found.append(torch.where(counted, self._of_rows(column(batch, name, self.name)), -1))
        return found[0], found[1]

    def counted(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Which rows of the student's logits and of the teacher's are about a token that counts."""
        masks = {"labels": real_tokens(batch), TEACHER_LABELS: column(batch, TEACHER_MASK, self.name).bool()}
        found = []
        for name, real in masks.items():
            labeled = self._of_rows(column(batch, name, self.name)) != IGNORED
            found.append(labeled & self._rows(real))  # what padding would predict is not read
        return found[0], found[1]

    def _of_rows(self, tokens: Tensor) -> Tensor:
        """Of values of each token those of the rows of logits that are read: each row's next token, or its own."""
        return tokens[:, 1:] if self.merge == "chain_rule" else tokens

    def _rows(self, places: Tensor) -> Tensor:
        """Of values at each place those of the rows that are read."""
        return places[:, :-1] if self.merge == "chain_rule" else places

    def count(self, batch: Batch, task: Task) -> Tensor | int:
        counted = both_sided(*self.spans(batch))
        return counted.sum() if self.reduction == "span_mean" else counted.any(1).sum()

    def values(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The parts `[spans, parts]` of the logarithms of some spans' laws, `[spans, words]` of each side; a law of a
        span that is several tokens long adds up to less than 1."""
        raise NotImplementedError

    def factors(self) -> tuple[float, ...]:
        """What multiplies each part."""
        return (1.0,)

    def forward(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        if teacher is None:
            raise DistillationError(f"objective {self.name!r} got no teacher logits.")
        ours, theirs = self.spans(batch)
        counted = both_sided(ours, theirs)
        weights = torch.ones_like(counted, dtype=at_least_float32(student.logits[:0]).dtype)
        if self.reduction == "example_mean":
            weights = weights / counted.sum(1, keepdim=True).clamp(min=1)
        sides = [
            Side(self._rows(shown), self._of_rows(batch[labels]), spans, temperature, self.merge == "chain_rule")
            for shown, labels, spans, temperature in (
                (student.logits, "labels", ours, self.student_temperature),
                (teacher.logits.detach(), TEACHER_LABELS, theirs, self.teacher_temperature),
            )
        ]
        self._check_rows(sides)
        total, parts = span_sums(sides[0], sides[1], self.values, weights, self.factors(), counted)
        for name, part in zip(self.parts, parts.unbind(), strict=True) if len(self.parts) > 1 else ():
            self.note(name, part)
        self.note("unaligned", (self.counted(batch)[0] & ~in_spans(ours, counted)).sum())
        return total

    def _check_rows(self, sides: list[Side]) -> None:
        for role, side in zip(("student", "teacher"), sides, strict=True):
            if side.logits.shape[:2] != side.tokens.shape:
                raise IncompatiblePair(
                    f"objective {self.name!r}: the {role} shows logits of shape {tuple(side.logits.shape)} for tokens "
                    f"of shape {tuple(side.tokens.shape)}; it must read the batch's own tokens of its tokenizer."
                )


def column(batch: Batch, name: str, objective: str) -> Tensor:
    """A column of the batch. Raises: `DataError` where it is missing."""
    if name not in batch:
        raise DataError(
            f"objective {objective!r} reads the column {name!r}, and the batch has only {', '.join(batch)}. Rows in "
            "the tokens of both models are made by data.aligned_rows.align_texts; texts that the student writes while "
            "it trains (on-policy) have no alignment and cannot be learned across tokenizers."
        )
    return batch[name]
