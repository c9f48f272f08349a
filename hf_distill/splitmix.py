"""Numbers that follow from a place and a seed, the same on every device and in a resumed training."""

from __future__ import annotations

from torch import Tensor

STEP = -7046029254386353131
"""What the numbers of SplitMix64 rise by, modulo 2^64: the odd number next to 2^64 over the golden ratio."""


def scrambled(numbers: Tensor) -> Tensor:
    """The finishing steps of SplitMix64 (Steele, Lea & Flood, 2014), modulo 2^64."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """As if the numbers had no sign."""
    shifted: Tensor = (numbers >> bits) & (2 ** (64 - bits) - 1)
    return shifted
