"""Heads that predict words: hidden ones, the next one, those of another text."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.tasks.base import Batch, Task, real_tokens


class MaskedLM(Task):
    """A word at each masked position: `labels` `[batch, length]`, -100 elsewhere.

    Soft targets count `all` real tokens, or the `masked` positions.
    """

    name = "masked_lm"
    tokens = ("all", "masked")
    auto_class = "AutoModelForMaskedLM"
    pipeline_tag = "fill-mask"
    vocabulary_sized = True

    def soft_mask(self, batch: Batch, tokens: str = "all") -> Tensor | None:
        return real_tokens(batch) if tokens == "all" else self.label_mask(batch)


class CausalLM(Task):
    """The next word: `logits[:, i]` predicts `labels[:, i + 1]`; labels come unshifted and are shifted here, once.

    A position counts whose next label is not -100 and which is real itself: padding on the left predicts nothing. Soft
    targets count these (`labeled`), or, as the original DistilGPT2 code did, every position of the attention mask, the
    last one included (`attention`).
    """

    name = "causal_lm"
    tokens = ("labeled", "attention")
    auto_class = "AutoModelForCausalLM"
    pipeline_tag = "text-generation"
    vocabulary_sized = True

    def rows(self, activations: Activations, batch: Batch, tokens: str = "labeled") -> tuple[Tensor, ...]:
        return (self.at_rows(activations.logits, tokens),)

    def at_rows(self, values: Tensor, tokens: str = "labeled") -> Tensor:
        return values if tokens == "attention" else values[:, :-1]

    def targets(self, batch: Batch) -> tuple[Tensor, ...]:
        return (self.labels(batch)[0][:, 1:],)

    def label_mask(self, batch: Batch) -> Tensor:
        labeled = super().label_mask(batch)
        return labeled & real_tokens(batch)[:, :-1] if "attention_mask" in batch else labeled

    def soft_mask(self, batch: Batch, tokens: str = "labeled") -> Tensor | None:
        return real_tokens(batch) if tokens == "attention" else self.label_mask(batch)


class Seq2SeqLM(Task):
    """The words of the target text: decoder logits align with `labels` `[batch, length]`, no shift."""

    name = "seq2seq_lm"
    tokens = ("labeled",)
    auto_class = "AutoModelForSeq2SeqLM"
    pipeline_tag = "text2text-generation"
    vocabulary_sized = True

    def soft_mask(self, batch: Batch, tokens: str = "labeled") -> Tensor | None:
        return self.label_mask(batch)

    def decoder_tokens(self, batch: Batch) -> Tensor:
        if "decoder_attention_mask" in batch:
            return super().decoder_tokens(batch)
        if "labels" in batch or "decoder_input_ids" not in batch:
            return self.label_mask(batch)
        return torch.ones_like(batch["decoder_input_ids"], dtype=torch.bool)
