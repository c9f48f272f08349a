"""Heads that point at a span of the text."""

from __future__ import annotations

from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.losses import at_least_float32
from hf_distill.tasks.base import IGNORED, Batch, Task, real_tokens


class QuestionAnswering(Task):
    """A span: `start_logits`, `end_logits` `[batch, length]`; the classes are the positions of the example.

    Padding is no possible answer and leaves both softmaxes, unless `tokens` is `all` (the reference SQuAD script's
    form). A target outside the text or in its padding (the answer was cut away) does not count.
    """

    name = "question_answering"
    label_names = ("start_positions", "end_positions")
    logit_fields = ("start_logits", "end_logits")
    tokens = ("valid", "all")
    auto_class = "AutoModelForQuestionAnswering"
    pipeline_tag = "question-answering"

    def rows(self, activations: Activations, batch: Batch, tokens: str = "valid") -> tuple[Tensor, ...]:
        logits = super().rows(activations, batch)
        if tokens == "all":
            return logits
        padding = ~real_tokens(batch)
        return tuple(at_least_float32(each).masked_fill(padding, -1e30) for each in logits)

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        valid = self.label_mask(batch)
        return tuple(positions.masked_fill(~valid, IGNORED) for positions in self.labels(batch))

    def label_mask(self, batch: Batch) -> Tensor:
        real = real_tokens(batch)
        start, end = (_on_text(positions, real) for positions in self.labels(batch))
        return start & end


def _on_text(positions: Tensor, real: Tensor) -> Tensor:
    """Which positions `[batch]` lie on a real token of `[batch, length]`."""
    length = real.shape[1]
    inside = (positions >= 0) & (positions < length)
    return inside & real.gather(1, positions.clamp(0, length - 1).unsqueeze(1)).squeeze(1)
