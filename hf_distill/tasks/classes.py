"""Heads that give classes or scores: of an example, or of each of its tokens."""

from __future__ import annotations

from torch import Tensor

from hf_distill.errors import DataError
from hf_distill.tasks.base import IGNORED, Batch, Task, real_tokens


class SingleLabel(Task):
    """One class an example: `logits` `[batch, classes]`, `labels` `[batch]`."""

    name = "single_label"
    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"


class MultiLabel(Task):
    """Any number of classes an example: `labels` `[batch, classes]` of 0, 1, or -100 (unknown); elements are rows."""

    name = "multi_label"
    form = "sigmoid"
    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        labels = self.labels(batch)
        if labels[0].dim() != 2:
            raise DataError(
                f"multi_label: labels have the shape {tuple(labels[0].shape)}; they must be [batch, classes] of 0, 1 "
                f"or {IGNORED}. For one class an example, set config.problem_type='single_label_classification'."
            )
        return labels

    def soft_mask(self, batch: Batch, tokens: str = "") -> Tensor | None:
        return self.label_mask(batch) if "labels" in batch else None


class Regression(Task):
    """Real scores: `logits` and `labels` `[batch, outputs]`, or labels `[batch]` for one output; elements are rows.

    Soft targets count every example, labelled or not.
    """

    name = "regression"
    form = "identity"
    auto_class = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        labels = self.labels(batch)[0]
        return (labels.unsqueeze(-1) if labels.dim() == 1 else labels,)


class TokenClassification(Task):
    """One class a token: `labels` `[batch, length]`, -100 on special tokens and later word pieces.

    Soft targets count the `labeled` tokens, or `all` real ones without the special tokens, which a column
    `special_tokens_mask` marks; where the batch has none they count as any other.
    """

    name = "token_classification"
    tokens = ("labeled", "all")
    auto_class = "AutoModelForTokenClassification"
    pipeline_tag = "token-classification"

    def soft_mask(self, batch: Batch, tokens: str = "labeled") -> Tensor | None:
        if tokens == "labeled":
            return self.label_mask(batch)
        real = real_tokens(batch)
        return real & ~batch["special_tokens_mask"].bool() if "special_tokens_mask" in batch else real
