"""Who writes the texts of a step, and how: the settings of on-policy distillation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from hf_distill.objectives.settings import check_count, check_number
from hf_distill.written_shares import STUDENT_SHARE, TEACHER_SHARE

Source = Literal["data", "student", "teacher"]

_DRAWS = 0
"""The key that sets these draws apart from others of the same seed."""


@dataclass(frozen=True, kw_only=True)
class OnPolicy:
    """On-policy distillation (GKD: Agarwal et al., 2024, arXiv:2306.13649): of the steps the share `student_share`
    (the paper's lambda) trains on texts that the student itself writes behind the prompts of the data, the share
    `teacher_share` on texts of the teacher, and the rest on the texts of the data.

    Which steps these are follows from the seed and the step alone; all micro-batches of a step are alike. A prompt is
    what stands before the first label of a row, of an encoder-decoder what its encoder reads; or the first so many
    tokens: with `prompt_tokens` of each row, as for plain text, or as the row's own column `prompt_tokens` tells. Each
    row goes on from its prompt until the end of the text or for `max_new_tokens`, and what was written is compared
    token by token, the prompt is not.

    `temperature` 1, `top_k` 0 (all) and `top_p` 1 sample from the student as it is, as in the paper; at `temperature`
    0 it writes what is most probable. `end_tokens` are texts of tokens that end a text, beside those of the model and
    of its tokenizer. `rows_at_once` is how many rows of the accumulation window write together, all of them unless it
    is given.

    Raises: `DistillationError` for shares outside [0, 1] or above 1 together, and other settings out of range.
    """

    student_share: float = STUDENT_SHARE
    teacher_share: float = TEACHER_SHARE
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_new_tokens: int = 128
    prompt_tokens: int | None = None
    end_tokens: tuple[str, ...] = ()
    rows_at_once: int | None = None

    def __post_init__(self) -> None:
        for name in ("student_share", "teacher_share"):
            check_number("on_policy", name, getattr(self, name), 0.0, 1.0)
        check_number("on_policy", "student_share + teacher_share", self.student_share + self.teacher_share, 0.0, 1.0)
        check_number("on_policy", "temperature", self.temperature, 0.0, 100.0)
        check_number("on_policy", "top_p", self.top_p, 0.0, 1.0, open_low=True)
        check_count("on_policy", "top_k", self.top_k, 0)
        check_count("on_policy", "max_new_tokens", self.max_new_tokens, 1)
        for name in ("prompt_tokens", "rows_at_once"):
            if getattr(self, name) is not None:
                check_count("on_policy", name, getattr(self, name), 1)

    def source(self, seed: int, step: int) -> Source:
        """Who writes the texts of a step."""
        bits = np.random.Philox(key=[seed, _DRAWS], counter=[0, 0, 0, step])
        return self.source_at(float(np.random.Generator(bits).random()))

    def source_at(self, drawn: float) -> Source:
        """Who writes where a number from [0, 1) was drawn: the student below `student_share`, the teacher from there
        to the end of `teacher_share`, nobody behind that."""
        if drawn < self.student_share:
            return "student"
        return "teacher" if drawn < self.student_share + self.teacher_share else "data"

    def facts(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dataclasses.asdict(self)
