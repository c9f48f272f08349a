"""Probabilities by their order of size, whatever the words are."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.losses import sorted_distance
from hf_distill.objectives.registry import register
from hf_distill.objectives.settings import check_choice
from hf_distill.objectives.span_wise import UNIVERSAL, SpanWise
from hf_distill.tasks import Batch

PAIRS = ("tokens", "spans")


@register("uld")
class ULD(SpanWise):
    """Universal logit distillation (Boizard, El Haddad, Hudelot & Colombo, 2024, arXiv:2402.12030).

    With q and p the student's and the teacher's probabilities of the next token, each sorted from the largest to the
    smallest and the shorter one filled up with zeros, L = sum_i |q_(i) - p_(i)|: the Wasserstein distance between the
    two laws where every word is as far from every other, which knows nothing of what the words are.

    `pairs="tokens"` compares the laws of the first counted token of both models, of the second, and so on, up to the
    shorter text, as published. `pairs="spans"` compares spans of text at whose ends both have the end of a token
    (TRL 1.16, `use_extended_uld`). `merge` says which row of logits is read for a token, and how the law of a span of
    several is made (`SpanWise`): with `chain_rule` that which predicts it, as the paper writes it; with `observed`
    that at the token itself, which predicts the next one, as the authors' code and TRL's default do.

    The paper's weight is 1.5, beside labels of weight 1.

    Reads: logits of both; columns of `data.aligned_rows`.  Counts: examples, after a mean over the pairs in each
    (`example_mean`, the authors' form), or pairs (`span_mean`).
    Errors: `IncompatiblePair` for models that read the same tokens; `DataError` for a batch without the teacher's
    tokens; `DistillationError` for a setting out of range.
    """

    parts = ("distance",)
    citation = UNIVERSAL

    def __init__(
        self,
        *,
        pairs: str = "tokens",
        merge: str = "chain_rule",
        student_temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        reduction: str = "example_mean",
    ) -> None:
        super().__init__(
            merge=merge,
            reduction=reduction,
            student_temperature=student_temperature,
            teacher_temperature=teacher_temperature,
        )
        check_choice(self.name, "pairs", pairs, PAIRS)
        self.pairs = pairs

    def spans(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self.pairs == "spans":
            return super().spans(batch)
        counted = self.counted(batch)
        numbers = [torch.where(each, each.cumsum(1) - 1, -1) for each in counted]
        return numbers[0], numbers[1]

    def values(self, student: Tensor, teacher: Tensor) -> Tensor:
        return sorted_distance(student.exp(), teacher.exp()).unsqueeze(-1)
