"""One vector a text, out of the states of its tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from hf_distill.losses import blank

POOLS = ("mean", "first_token", "last_token", "max")
"""The ways of pooling: the mean or the largest of each feature over the real tokens, or one real token's state."""

MEAN_BY_ROOT = "mean_by_root"
"""A further way: the sum over the real tokens, divided by the square root of how many there are."""

SENTENCE = "sentence"
"""In place of a way of pooling: the vector that a sentence encoder itself gives each text."""


def pooled(states: Tensor, mask: Tensor, how: str) -> Tensor:
    """The vectors of the texts, `[batch, length, width]` to `[batch, width]`; `how` is one of `POOLS`, or
    `MEAN_BY_ROOT`; with `SENTENCE` they are vectors already.

    Only real tokens (`mask` `[batch, length]` 1) are read, on whichever side the padding is; what stands in padding,
    NaN too, changes neither values nor gradients. A text without a real token has the vector 0.
    """
    if how == SENTENCE:
        return states
    real = mask.bool()
    clean = blank(states, real)
    if how == "mean":
        return clean.sum(1) / real.sum(1, keepdim=True).clamp(min=1)
    if how == MEAN_BY_ROOT:
        return clean.sum(1) / real.sum(1, keepdim=True).clamp(min=1).to(clean.dtype).sqrt()
    if how == "max":
        lowest = clean.masked_fill(~real.unsqueeze(-1), torch.finfo(clean.dtype).min)
        return blank(lowest.amax(1), real.any(1))
    place = token_place(real, how).view(-1, 1, 1).expand(-1, 1, clean.shape[-1])
    return clean.gather(1, place).squeeze(1)


def token_place(real: Tensor, how: str) -> Tensor:
    """The position of the `first_token` or the `last_token` of each text, `[batch]`; 0 where a text has none."""
    positions = torch.arange(1, real.shape[1] + 1, device=real.device)
    ranks = positions if how == "last_token" else positions.flip(0)
    return (ranks * real).argmax(1)
