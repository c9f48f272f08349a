"""Texts that the student writes while it trains."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from hf_distill.recipe.fields import Count, Layer, Share, Text, Weight, distinct
from hf_distill.recipe.problems import Problem, fail
from hf_distill.recipe.sections.base import Section
from hf_distill.training.policy import OnPolicy


class OnPolicyTexts(Section):
    """On-policy distillation (GKD: Agarwal et al., 2024, arXiv:2306.13649): in a share of the steps the student, or
    the teacher, writes the texts that are trained on, behind the prompts of the data; {} is half of the steps by the
    student. A prompt is what stands before the first label of a row, or what an encoder reads."""

    student_share: Share = 0.5
    """The share of the steps on texts of the student, the paper's lambda."""
    teacher_share: Share = 0.0
    """The share of the steps on texts of the teacher. The rest is on the texts of the data."""
    temperature: Weight = 1.0
    """Tokens are drawn from softmax(logits / temperature); at 0 it is the most probable one."""
    top_k: Layer = 0
    """Drawn of so many most probable tokens, 0 for all."""
    top_p: Annotated[Share, Field(gt=0.0)] = 1.0
    """Drawn of the fewest tokens that have this probability together."""
    max_new_tokens: Count = 128
    """Tokens of what is written at most."""
    prompt_tokens: Count | None = None
    """The first so many tokens of each row are its prompt; for plain text, which marks none."""
    end_tokens: Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)] | None = None
    """Tokens that end a text, beside those of the student's generation config and its tokenizer."""
    rows_at_once: Count | None = None
    """Rows that write together, where memory is short; all of an accumulation window without it."""

    @model_validator(mode="after")
    def _at_most_one(self) -> OnPolicyTexts:
        total = self.student_share + self.teacher_share
        if total > 1:
            text = f"is {self.teacher_share:g}, with student_share {total:g}; together they may be 1 at most."
            raise fail([Problem(("teacher_share",), text)])
        return self

    def made(self) -> OnPolicy:
        """The settings of a trainer."""
        settings = self.model_dump()
        return OnPolicy(**{**settings, "end_tokens": tuple(settings.get("end_tokens", ()))})
