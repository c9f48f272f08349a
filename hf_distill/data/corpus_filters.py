"""Which of the texts that a teacher wrote are learned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from pydantic import BaseModel, ConfigDict, Field

from hf_distill.data.sentence_bleu import sentence_bleu
from hf_distill.teachers.generated import said
from hf_distill.teachers.generation import Hypothesis

GRAM = 4
"""Tokens of what may be repeated."""


class Filters(BaseModel):
    """What a text must be like to be kept; what is None, or False, is not asked.

    `min_tokens` and `max_tokens` bound its tokens, the end of the text included. `min_mean_log_probability` is for the
    mean over these of log P of the teacher; texts of one source that say the same have their sum. `max_repetition` is
    for the share of its runs of four tokens that stand in it before: 1 - different ones / all (Welleck et al., 2020,
    arXiv:1908.04319), 0 for a text of less. `min_similarity` is for its sentence BLEU with the data's own text, from 0
    to 1. `distinct` keeps of texts that say the same, of whatever sources, the first.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    min_tokens: int | None = Field(default=None, ge=1)
    max_tokens: int | None = Field(default=None, ge=1)
    min_mean_log_probability: float | None = Field(default=None, le=0.0, allow_inf_nan=False)
    max_repetition: float | None = Field(default=None, ge=0.0, le=1.0)
    min_similarity: float | None = Field(default=None, ge=0.0, le=1.0)
    distinct: bool = False

    def faults(self, text: Hypothesis, reference: str) -> Iterator[str]:
        """Why a text is not kept, whatever the others are."""
        length = len(text.ids)
        if self.min_tokens is not None and length < self.min_tokens:
            yield "below min_tokens"
        if self.max_tokens is not None and length > self.max_tokens:
            yield "above max_tokens"
        least = self.min_mean_log_probability
        if least is not None and text.score < least * length:
            yield "below min_mean_log_probability"
        if self.max_repetition is not None and repetition(text.ids) > self.max_repetition:
            yield "above max_repetition"
        if self.min_similarity is not None and sentence_bleu(text.text, reference) < self.min_similarity:
            yield "below min_similarity"


def repetition(ids: Sequence[int]) -> float:
    """The share of runs of four tokens that stand before in the text, from 0 to 1."""
    runs = [tuple(ids[i : i + GRAM]) for i in range(len(ids) - GRAM + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def filtered(
    hypotheses: Sequence[Sequence[Hypothesis]], references: Sequence[str], filters: Filters
) -> tuple[list[list[Hypothesis]], Counter[str]]:
    """The hypotheses of each source that are kept, and how many of the others fell to what; each to the first of its
    faults. Of a source nothing may be left.
    """
    dropped: Counter[str] = Counter()
    seen: set[str] = set()
    kept: list[list[Hypothesis]] = []
    for row, reference in zip(hypotheses, references, strict=True):
        kept.append([])
        for each in row:
            fault = next(filters.faults(each, reference), None)
            if fault is None and filters.distinct and said(each.text) in seen:
                fault = "written before"
            if fault is not None:
                dropped[fault] += 1
                continue
            seen.add(said(each.text))
            kept[-1].append(each)
    return kept, dropped
