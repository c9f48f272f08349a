"""The axes in which a head looks at a state, and bits for each of them."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import pad

from hf_distill.errors import CacheMismatch, DistillationError
from hf_distill.teachers.cache.bits import GROUP, pack, spreading, unpack
from hf_distill.teachers.cache.codecs import Head, Parts

FEWEST_BITS, MOST_BITS = 0.25, 8
STEPS = (1.0, 1.596, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)
ERRORS = (1.0, 0.3634, 0.1188, 0.03744, 0.01154, 0.003495, 0.001041, 0.0003035, 0.00008714)
"""By the number of bits: the best step of equal levels for a normal law of variance 1, and the mean squared error then
(Max, 1960, "Quantizing for minimum distortion"; from 6 bits Jayant and Noll, 1984, "Digital coding of waveforms")."""

WIDER = 1.2
"""Steps are longer by this than a normal law's, as the axes of states have longer tails."""

LEAST_SCALE, LARGEST_SCALE = 0.1, 1000.0

COVARIANCE_ROWS, FISHER_ROWS = 2**14, 2048
"""Most rows of the sample that the covariance, and that the head's sensitivity, are taken from."""

FLATTEST = 1e-6
"""The least that a direction counts as seen by the head, and the least variance of an axis, of the largest."""


class Rotation:
    """Axes z = (h - centre) forward, h = centre + z backward, of falling variance, and what is kept of them.

    `centre` [width], `forward` [width, axes], `backward` [axes, width]; `spreads` [axes], the standard deviations;
    `bits` [axes / 8] of each eight axes, falling; `length` [1], a typical norm of a state. Axes beyond the width, up
    to a multiple of 8, are empty. `back` [kept axes, width] leads from levels, counted from the middle one, to states.

    Level c of an axis with b bits is (c - (2^b - 1) / 2) step, the step being that of its spread; an axis without
    bits has the one level 0. A row stretches all of its levels by one scale.
    """

    NAMES = ("centre", "forward", "backward", "spreads", "bits", "length")

    def __init__(self, tables: Mapping[str, Tensor]) -> None:
        if set(tables) != set(self.NAMES):
            found = ", ".join(sorted(tables)) or "none"
            raise CacheMismatch(
                f"the codec 'rotated' keeps the tables {', '.join(self.NAMES)}; the cache has {found}."
            )
        self._tables = dict(tables)
        self.centre, self.forward, self.backward, self.spreads, bits, self.length = (
            tables[name] for name in self.NAMES
        )
        self._check(bits)
        dealt = [int(each) for each in bits.tolist()]
        self.num_bytes = sum(dealt)
        self._plan = tuple((each, dealt.count(each)) for each in range(MOST_BITS, 0, -1) if each in dealt)
        of_axes = bits.long().repeat_interleave(GROUP)
        self.most = torch.exp2(of_axes.float()) - 1
        self.steps = self.spreads * WIDER * self.spreads.new_tensor(STEPS)[of_axes]
        kept = GROUP * sum(count for _, count in self._plan)
        self.back = self.steps[:kept, None] * self.backward[:kept]
        self._middle = 0.5 * self.most[:kept]
        self._spreading = spreading(bits.device)

    def _check(self, bits: Tensor) -> None:
        numbers = (self.centre, self.forward, self.backward, self.spreads, self.length)
        shapes = [tuple(each.shape) for each in (*numbers, bits)]
        width, axes = self.centre.numel(), GROUP * bits.numel()
        fit = shapes == [(width,), (width, axes), (axes, width), (axes,), (1,), (bits.numel(),)]
        typed = bits.dtype == torch.uint8 and all(each.dtype == torch.float32 for each in numbers)
        falling = fit and typed and bits.numel() > 0 and bool((bits[1:] <= bits[:-1]).all())
        if not falling or int(bits[0]) > MOST_BITS:
            raise CacheMismatch("the tables of the codec 'rotated' do not fit each other; the cache is damaged.")

    @classmethod
    def fitted(cls, sample: Tensor, head: Head | None, num_bytes: int) -> Rotation:
        """Axes for a sample `[rows, width]` and the head that reads it, and `num_bytes` dealt out to them.

        Raises: `DistillationError` for a sample with less than two rows a channel.
        """
        width = sample.shape[1]
        rows = spread(sample, max(COVARIANCE_ROWS, 2 * width))
        if len(rows) < 2 * width:
            raise DistillationError(
                f"rotated: the sample has {len(rows)} rows, and states are {width} wide: axes need {2 * width} rows "
                "or more, and ten times as many are better. Write so little text down with the codec int8 or float16."
            )
        centre = rows.mean(0)
        length = rows.norm(dim=1).mean().clamp(min=1e-6).reshape(1)
        deviations = (rows - centre).double()
        covariance = deviations.T @ deviations / len(rows)
        seen = torch.eye(width, device=rows.device, dtype=torch.float64)
        if head is not None:
            seen = mean_information(spread(rows, FISHER_ROWS), head, head_slopes(head, centre, length)).double()
        variances, forward, backward = sensitive_axes(covariance, seen)
        padding = -width % GROUP
        tables = {
            "centre": centre,
            "forward": pad(forward, (0, padding)),
            "backward": pad(backward, (0, 0, 0, padding)),
            "spreads": pad(variances.sqrt(), (0, padding), value=1.0),
            "length": length,
        }
        bits = deal_out(pad(variances, (0, padding)), num_bytes).to(torch.uint8)
        return cls({"bits": bits, **{name: table.float().contiguous() for name, table in tables.items()}})

    def turn(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows `[rows, width]` to axes over the row's scale `[rows, axes]`, and the scales `[rows, 1]` in float16:
        the root of how far out a row is, so that the outermost levels are neither missed by all nor by few rows."""
        axes = (rows - self.centre) @ self.forward
        far = (axes / self.spreads).square().mean(1, keepdim=True).sqrt()
        scales = far.sqrt().clamp(LEAST_SCALE, LARGEST_SCALE).half()
        return axes / scales.float(), scales

    def read(self, packed: Tensor, scales: Tensor) -> Tensor:
        """The levels of rows on the axes that have bits, counted from the middle one, times the row's scale
        `[rows, kept axes]`; the rows themselves are `centre` and this times `back`."""
        return self.unpack(packed).sub_(self._middle).mul_(scales.float())

    def levels(self, axes: Tensor) -> Tensor:
        """The nearest level on each axis, counted from 0 and as a float; values beyond the outermost get these."""
        return nearest(axes, self.steps, self.most)

    def pack(self, levels: Tensor) -> Tensor:
        """Levels `[rows, axes]` to bytes `[rows, bytes]`, as `bits.pack` does."""
        return pack(levels, self._plan)

    def unpack(self, packed: Tensor) -> Tensor:
        """Bytes `[rows, bytes]` to levels `[rows, kept axes]` in float32."""
        return unpack(packed, self._plan, self._spreading).float()

    def tables(self) -> Parts:
        return {name: table.cpu() for name, table in self._tables.items()}

    def to(self, device: torch.device) -> Rotation:
        return type(self)({name: table.to(device) for name, table in self._tables.items()})


def nearest(values: Tensor, steps: Tensor, most: Tensor) -> Tensor:
    """The index in 0 … most of the nearest of the levels (index - most / 2) step."""
    return torch.minimum((values / steps + 0.5 * most).round().clamp(min=0), most)


def spread(rows: Tensor, most: int) -> Tensor:
    """At most `most` rows, at equal distances."""
    return rows[torch.linspace(0, len(rows) - 1, min(most, len(rows)), device=rows.device).long()]


def head_slopes(head: Head, centre: Tensor, length: Tensor) -> Tensor:
    """`[width, vocabulary]`: (head(centre + length e_i) - head(centre)) / length for each channel i, which are the
    weights of a linear head whatever its bias, and the secants at the size of a state of another."""
    unit = torch.eye(len(centre), device=centre.device)
    return (head(centre + length * unit).float() - head(centre[None]).float()) / length


def mean_information(rows: Tensor, head: Head, slopes: Tensor) -> Tensor:
    """`[width, width]`, the mean over rows of W^T (diag(p) - p p^T) W; `slopes` is W^T."""
    mean_law = slopes.new_zeros(slopes.shape[1])
    products = slopes.new_zeros(len(slopes), len(slopes))
    for some in torch.split(rows, 128):
        laws = head(some).float().softmax(-1)
        means = laws @ slopes.T
        mean_law += laws.sum(0)
        products += means.T @ means
    return ((slopes * mean_law) @ slopes.T - products) / len(rows)


def sensitive_axes(covariance: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Variances [width], falling, and the matrices to and from axes in which `seen` is the identity and `covariance`
    diagonal."""
    sight, directions = torch.linalg.eigh(seen)
    root = sight.clamp(min=float(FLATTEST * sight.amax().clamp(min=1e-12))).sqrt()
    to_seen, from_seen = (directions * root) @ directions.T, (directions / root) @ directions.T
    variances, turn = torch.linalg.eigh(to_seen @ covariance @ to_seen)
    turn = turn.flip(1)
    variances = variances.flip(0)
    return variances.clamp(min=float(FLATTEST * variances[0].clamp(min=1e-12))), to_seen @ turn, turn.T @ from_seen


def deal_out(variances: Tensor, num_bytes: int) -> Tensor:
    """Bits `[axes / 8]` for each eight axes, one byte after the other to the eight whose error it lowers most."""
    of_group = variances.view(-1, GROUP).sum(1).tolist()
    gains = [before - after for before, after in pairwise(ERRORS)] + [-1.0]
    bits = [0] * len(of_group)
    for _ in range(min(num_bytes, MOST_BITS * len(bits))):
        best = max(range(len(bits)), key=lambda group: of_group[group] * gains[bits[group]])
        bits[best] += 1
    return torch.tensor(bits, device=variances.device)
