"""The clock of a search: what a model costs, with the teacher timed before and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import Latency, measure_latency
from hf_distill.search.budget import Cost
from hf_distill.search.forms import COMPILED, Form, Ready

SECONDS = 3.0
"""For the time of one model, without what it takes to make and compile it."""

SENTENCES = 64
"""Few, so that fast and slow models read all of them in that time."""


@dataclass(frozen=True)
class Clock:
    """On what models answer: the device, the texts of the lengths that they will read, tokens of one at most; and the
    teacher, in float32 and as it is."""

    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    texts: Sequence[Any]
    max_length: int

    def cost(self, made: Ready, form: Form) -> Cost:
        """The cost of a model in a form.

        The teacher is timed before and after on the same texts, so that a machine that has other work, too, makes
        both slower. What is compiled is called for both kinds of batches before the clock runs.
        """
        if form.runtime == COMPILED:
            torch.compiler.reset()  # or the code of models before this one counts against its own
            self._compile(made)
        before = self._latency(self.teacher, self.teacher, SECONDS / 2)
        latency = self._latency(made.model, made.call, SECONDS)
        after = self._latency(self.teacher, self.teacher, SECONDS / 2)
        params = sum(parameter.numel() for parameter in made.model.parameters())
        teacher_ms = (before.milliseconds_per_sentence + after.milliseconds_per_sentence) / 2
        return Cost(latency=latency, teacher_ms=teacher_ms, size_bytes=made.size_bytes, params=params)

    def _compile(self, made: Ready) -> None:
        """Raises: `DistillationError` for a model that torch's compiler cannot take."""
        try:
            self._latency(made.model, made.call, 1e-3)
        except RuntimeError as error:  # of which torch's compilers' errors are
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DistillationError(f"torch.compile cannot run {type(made.model).__name__}: {reason}") from error

    def _latency(self, model: PreTrainedModel, call: Any, seconds: float) -> Latency:
        settings: dict[str, Any] = {"max_length": self.max_length, "budget_seconds": seconds}
        return measure_latency(model, self.tokenizer, sample(self.texts), call=call, **settings)


def sample(texts: Sequence[Any]) -> list[Any]:
    """Some of the texts, drawn once and for all."""
    return [texts[row] for row in np.random.default_rng(1).permutation(len(texts))[:SENTENCES]]
