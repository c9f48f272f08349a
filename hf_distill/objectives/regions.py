"""Parts of a text, and the moments of the states in them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

NONE = -1
"""The region of a token that belongs to none."""

FLAT = 1e-12
"""A variance that counts as none: what is divided by it is noise."""


def windows(real: Tensor, size: int) -> Tensor:
    """Regions of `size` tokens that follow each other, numbered from 0 in each text; `[batch, length]`.

    Counted are real tokens (`real` `[batch, length]`), wherever the padding is; the last region may be smaller.
    """
    return torch.where(real, (real.cumsum(1) - 1).div(size, rounding_mode="floor"), NONE)


def widened(regions: Tensor, real: Tensor, steps: int) -> Tensor:
    """The regions after `steps` times giving each real token that belongs to none the region of its neighbour, the
    earlier one where both have one.
    """
    for _ in range(steps):
        before, after = (functional.pad(regions, shift, value=NONE) for shift in ((1, -1), (-1, 1)))
        taken = torch.where(before == NONE, after, before)
        regions = torch.where((regions == NONE) & real, taken, regions)
    return regions


def members(regions: Tensor, number: int) -> Tensor:
    """Which tokens each of `number` regions has, boolean `[batch, number, length]`."""
    numbers = torch.arange(number, device=regions.device)
    return regions.unsqueeze(1) == numbers[:, None]


class Moments(NamedTuple):
    """Mean, population variance and skewness m3 / variance^(3/2) of each feature, `[batch, regions, width]` each. A
    region without tokens has zeros, and so has the skewness of a feature whose variance is at most 1e-12.
    """

    mean: Tensor
    variance: Tensor
    skewness: Tensor


def moments(states: Tensor, member: Tensor) -> Moments:
    """The moments of states `[batch, length, width]` over regions that share no token, `member`
    `[batch, regions, length]`; the third power is of centred values alone.
    """
    share = member.to(states.dtype)
    over = share / member.sum(2, keepdim=True).clamp(min=1)
    mean = torch.bmm(over, states)
    # Tokens of no region have weight 0 in every sum below.
    centred = states - torch.bmm(share.mT, mean)
    squares = centred.square()
    variance = torch.bmm(over, squares)
    varies = variance > FLAT
    spread = torch.where(varies, variance, 1.0).sqrt()
    third = torch.bmm(over, squares * centred)
    skewness = torch.where(varies, third / spread.pow(3), 0.0)
    return Moments(mean, variance, skewness)


def means(states: Tensor, member: Tensor) -> Tensor:
    """The mean state of each region, `[batch, regions, width]`; 0 for one without tokens."""
    over = member.to(states.dtype) / member.sum(2, keepdim=True).clamp(min=1)
    return torch.bmm(over, states)
