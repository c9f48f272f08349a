"""Tokens that are drawn from a model's law, by random numbers that come from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers.generation import (
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

DRAWS = 2**23
"""What numbers are below."""
_UNITS = 2.0**38
"""What a probability of 1 is in whole numbers; times a number of above it fits into 64 bits."""


@dataclass(frozen=True)
class Law:
    """What tokens are drawn from: softmax(logits / `temperature`) over the first `vocabulary` classes (None for all),
    of these the `top_k` most probable (0 for all), and of these the fewest that have `top_p` together. At temperature
    0 it is the most probable one.
    """

    temperature: float
    top_k: int
    top_p: float
    vocabulary: int | None = None


def numbers_of(seed: int, purpose: int, turn: int, places: Sequence[int], length: int) -> Tensor:
    """Whole numbers from 0 on, below `DRAWS`, `[rows, length]`, on the CPU: what the text of a row is drawn with.

    They follow from the seed, what they are for, the turn (a step, or which text of a row it is) and the place of the
    row among all rows, those of other processes included, alone (Philox, a counter-based generator: Salmon et al.,
    2011).
    """
    drawn = [
        np.random.Generator(np.random.Philox(key=[seed, purpose], counter=[0, 0, turn, place])).integers(
            DRAWS, size=length
        )
        for place in places
    ]
    return torch.from_numpy(np.asarray(drawn, dtype=np.int64).reshape(-1, length))


def processors(law: Law, drawn: Tensor, before: int) -> LogitsProcessorList:
    """What a greedy `generate` needs to draw from `law` by the numbers `drawn`, `[rows, length]`; `before` is how many
    tokens there are before the first that is written."""
    found: list[LogitsProcessor] = []
    if law.vocabulary is not None:
        found.append(_First(law.vocabulary))
    if law.temperature == 0:
        return LogitsProcessorList(found)
    if law.temperature != 1:
        found.append(TemperatureLogitsWarper(law.temperature))
    if law.top_k:
        found.append(TopKLogitsWarper(law.top_k))
    if law.top_p < 1:
        found.append(TopPLogitsWarper(law.top_p))
    return LogitsProcessorList([*found, Drawn(drawn, before)])


class _First(LogitsProcessor):  # type: ignore[misc]
    """Keeps to the first classes: those behind are padding of the vocabulary, or the teacher does not know them."""

    def __init__(self, classes: int) -> None:
        self.classes = classes

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores[:, self.classes :] = -torch.inf
        return scores


class Drawn(LogitsProcessor):  # type: ignore[misc]
    """Leaves one class of each row: the first at which the sum of probabilities, in the order of classes, is above the
    share number / `DRAWS` of them all. `before` is how many tokens there are before the first that is written.

    Probabilities are added as whole numbers of 2^-38, so that the sums are the same in whatever order a device forms
    them; what is less probable is never drawn.
    """

    def __init__(self, drawn: Tensor, before: int) -> None:
        self.drawn, self.before = drawn, before

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        sums = (torch.softmax(scores, -1) * _UNITS).long().cumsum(-1)
        wanted = sums[:, -1:] * self.drawn[:, input_ids.shape[1] - self.before].unsqueeze(1) // DRAWS
        # Of laws that are not finite, which the loss tells, there is no such class.
        chosen = torch.searchsorted(sums, wanted, right=True).clamp(max=scores.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)
