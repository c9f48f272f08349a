"""Whole numbers of 1 to 8 bits, side by side in bytes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

GROUP = 8
"""Numbers that have as many bits each; a group of them takes as many bytes as a number has bits."""

Plan = Sequence[tuple[int, int]]
"""Runs of groups: the bits of their numbers, and how many groups."""

Tables = dict[tuple[int, int], Tensor]

_INTO = {1: torch.int64, 2: torch.int32, 4: torch.int16}
"""A type with a byte for each of the numbers of so many bits that lie in one byte."""


def digits(bits: int) -> list[tuple[int, int]]:
    """The powers of two that a number of bits is the sum of, each with the sum of the smaller ones."""
    return [(size, bits & size - 1) for size in (1, 2, 4, 8) if bits & size]


def pack(numbers: Tensor, plan: Plan) -> Tensor:
    """Numbers `[rows, columns]` to bytes `[rows, bytes]`. Of each run come one after the other its single bits, pairs,
    fours and whole bytes, as the bits' number is made of 1, 2, 4 and 8: the lowest bits first, and in a byte the
    lowest places for the first number. Columns behind the last run have no bits."""
    codes, packed, start = numbers.to(torch.uint8), [], 0
    for bits, count in plan:
        run = codes[:, start : start + GROUP * count]
        for size, below in digits(bits):
            shifts = torch.arange(0, 8, size, dtype=torch.uint8, device=codes.device)
            parts = (run >> below & (1 << size) - 1).reshape(len(codes), size * count, 8 // size)
            packed.append((parts << shifts).sum(-1, dtype=torch.uint8))
        start += GROUP * count
    return torch.cat(packed, 1)


def unpack(packed: Tensor, plan: Plan, tables: Tables) -> Tensor:
    """The numbers `[rows, columns]` in uint8 of bytes `[rows, bytes]`; `tables` are those of `spreading`."""
    runs, start = [packed[:, :0]], 0
    for bits, count in plan:
        parts = []
        for size, below in digits(bits):
            parts.append(_spread(packed[:, start : start + size * count], size, below, tables))
            start += size * count
        runs.append(sum(parts[1:], start=parts[0]))
    return torch.cat(runs, 1)


def spreading(device: torch.device) -> Tables:
    """What each byte becomes that holds single bits, or pairs, by their size and the place that they belong at: a
    whole number with a byte for each of them."""
    every, found = torch.arange(256), {}
    for size, below in ((1, 0), (2, 0), (2, 1)):
        places = range(0, 8, size)
        numbers = sum((every >> place & (1 << size) - 1) << below + 8 * (place // size) for place in places)
        found[size, below] = torch.as_tensor(numbers).to(_INTO[size]).to(device)
    return found


def _spread(packed: Tensor, size: int, below: int, tables: Tables) -> Tensor:
    """The numbers of `size` bits in bytes `[rows, bytes]`, one a byte and in their order, moved up by `below` places.

    Wide whole numbers are taken apart as bytes, which is many times quicker than shifting for each number alone; their
    lowest byte comes first on every machine that torch is built for."""
    if size == 8:
        return packed
    if size == 4:
        pairs = packed.to(_INTO[size])
        spread = (pairs | pairs << 4).bitwise_and_(0x0F0F)
        return (spread << below if below else spread).view(torch.uint8)
    found = tables[size, below].index_select(0, packed.flatten().long())
    return found.view(packed.shape).view(torch.uint8)
