"""Tensors whose values lie on a grid of few points: uniform grids, and grids of learned points.

A tensor is flattened row by row and cut into buckets of k values v, each with alpha = max - min (1 where that is below
1e-10) and beta = min, so that x = (v - beta) / alpha lies in [0, 1]. The last bucket is filled with the last value; a
tensor of fewer than k values is one short bucket. After Polino et al., 2018, arXiv:1802.05668, sections 2 to 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from hf_distill.errors import DistillationError

SMALLEST_RANGE = 1e-10
"""A bucket whose values differ by less is constant; it is left as it is."""

Style = Literal["ste", "truncated", "scale"]
STYLES = ("ste", "truncated", "scale")


class Buckets(NamedTuple):
    """A tensor in buckets: `scaled` `[buckets, size]` in [0, 1], `alpha` and `beta` `[buckets, 1]`."""

    scaled: Tensor
    alpha: Tensor
    beta: Tensor

    def placed(self, scaled: Tensor, like: Tensor) -> Tensor:
        """alpha x + beta for other x, in the shape of `like`."""
        return torch.addcmul(self.beta, self.alpha, scaled).reshape(-1)[: like.numel()].view_as(like)


class Coded(NamedTuple):
    """A tensor on a grid: `codes` `[values]` (uint8), which count the points of the grid, and what places them,
    `alpha` and `beta` `[buckets]`, `points` in [0, 1], one for each code."""

    codes: Tensor
    alpha: Tensor
    beta: Tensor
    points: Tensor

    def values(self, shape: Sequence[int], bucket_size: int | None) -> Tensor:
        """The values `[shape]` that the codes stand for."""
        scaled = rows(self.points[self.codes.long()], bucket_size)
        buckets = Buckets(scaled, self.alpha.unsqueeze(1), self.beta.unsqueeze(1))
        return buckets.placed(scaled, self.points.new_empty(list(shape)))


def cut(values: Tensor, bucket_size: int | None) -> Buckets:
    """The buckets of a tensor; one for all of it without a size."""
    cells = rows(values, bucket_size)
    smallest = cells.min(dim=1, keepdim=True).values
    spread = cells.max(dim=1, keepdim=True).values - smallest
    alpha = torch.where(spread < SMALLEST_RANGE, torch.ones_like(spread), spread)
    return Buckets((cells - smallest) / alpha, alpha, smallest)


def uniform_points(bits: int, like: Tensor) -> Tensor:
    """The 2^bits points of a uniform grid over [0, 1]."""
    top = 2**bits - 1
    steps: Tensor = torch.arange(top + 1, dtype=like.dtype, device=like.device)
    return steps.div(top)


def quantize(
    values: Tensor, bits: int, bucket_size: int | None, *, style: Style = "ste", noise: Tensor | None = None
) -> Tensor:
    """Q(v) = alpha round(x S) / S + beta with S = 2^bits - 1, half-way cases to the even number.

    With `noise` u, uniform on (0, 1] and in the shape of the buckets, the number is floor(x S) + [u <= the fraction].

    The gradient g of Q(v) reaches v by `style`:

    - `ste`: g itself, as if nothing were rounded (Bengio et al., 2013, arXiv:1308.3432).
    - `truncated`: values are clamped to [-1, 1] first, and g is 0 where |v| > 1.
    - `scale`: as `ste`, and through alpha and beta: g_i + t where i has the largest value of its bucket, g_i - t where
      it has the smallest, t the sum over the bucket of g_j (round(x_j S) / S - x_j).
    """
    top = 2**bits - 1
    if style == "scale":
        buckets = cut(values, bucket_size)
        steps = buckets.scaled * top
        return buckets.placed(_straight_through(steps, _rounded(steps, noise)) / top, values)
    clamped = values.clamp(-1.0, 1.0) if style == "truncated" else values
    with torch.no_grad():
        buckets = cut(clamped, bucket_size)
        placed = buckets.placed(_rounded(buckets.scaled * top, noise) / top, values)
    return _straight_through(clamped, placed)


def encode(values: Tensor, bits: int, bucket_size: int | None, noise: Tensor | None = None) -> Coded:
    """The codes of Q(v), which `Coded.values` decodes to Q(v)."""
    buckets = cut(values, bucket_size)
    codes = _rounded(buckets.scaled * (2**bits - 1), noise).to(torch.uint8).reshape(-1)[: values.numel()]
    return Coded(codes, buckets.alpha.squeeze(1), buckets.beta.squeeze(1), uniform_points(bits, values))


def at_points(values: Tensor, points: Tensor, bucket_size: int | None) -> Tensor:
    """Q(v) = alpha p + beta with the point p nearest to x, the upper one half-way between two.

    `points` `[s]` in any order get the gradient dL/dp_j = sum of g_i alpha over the values whose point is j; `values`
    get none.
    """
    ordered = points.sort().values
    with torch.no_grad():
        buckets = cut(values, bucket_size)
        nearest = _nearest(buckets.scaled, ordered)
    return buckets.placed(ordered[nearest], values)


def encode_at_points(values: Tensor, points: Tensor, bucket_size: int | None) -> Coded:
    """The codes of the values, whose points are the sorted `points`."""
    ordered, buckets = points.sort().values, cut(values, bucket_size)
    codes = _nearest(buckets.scaled, ordered).to(torch.uint8).reshape(-1)[: values.numel()]
    return Coded(codes, buckets.alpha.squeeze(1), buckets.beta.squeeze(1), ordered)


def init_points(values: Tensor, number: int, bucket_size: int | None) -> Tensor:
    """The quantiles of x at 0, 1/(s-1), ..., 1 for s points: more points where there are more values.

    Between two values it is interpolated linearly. What fills the last bucket does not count.
    """
    ordered = cut(values, bucket_size).scaled.reshape(-1)[: values.numel()].sort().values
    places = torch.linspace(0, values.numel() - 1, number, dtype=torch.float64, device=values.device)
    below = places.floor().long()
    above = (below + 1).clamp(max=values.numel() - 1)
    return torch.lerp(ordered[below], ordered[above], (places - below).to(ordered.dtype))


def assign_points(gradient_norms: Sequence[float], points: Sequence[int]) -> list[int]:
    """Shares the points of all tensors out anew, more to those with a larger gradient.

    Each keeps half of its own, rounded down; the rest goes by the share of its gradient's norm, rounded. What rounding
    gives too much is taken from the largest number, and what it lacks is added to the smallest, as the authors' code
    does.

    Raises: `DistillationError` for lists of different lengths, norms that are negative or sum to 0, fewer than 2
    points, and where a tensor would be left with fewer than 2.
    """
    total, norms = sum(points), sum(gradient_norms)
    if len(gradient_norms) != len(points) or not points:
        raise DistillationError(f"assign_points: {len(gradient_norms)} gradient norms for {len(points)} tensors.")
    if min(gradient_norms) < 0 or not 0 < norms < float("inf") or min(points) < 2:
        raise DistillationError(
            f"assign_points: norms {list(gradient_norms)} and points {list(points)}; norms must be at least 0 with a "
            "finite sum above 0, and a tensor needs 2 points or more."
        )
    kept = [number // 2 for number in points]
    rest = total - sum(kept)
    shared = [base + round(norm / norms * rest) for norm, base in zip(gradient_norms, kept, strict=True)]
    surplus = sum(shared) - total
    shared[shared.index(max(shared) if surplus > 0 else min(shared))] -= surplus
    if min(shared) < 2:
        raise DistillationError(
            f"assign_points: {total} points for norms {list(gradient_norms)} leave a tensor with {min(shared)}; give "
            "the tensors more points."
        )
    return shared


def compression_ratio(bits: int, bucket_size: int) -> float:
    """Bytes of float32 values for each byte on the grid: 32 k / (k bits + 64), as a bucket of k has two floats."""
    return 32 * bucket_size / (bucket_size * bits + 64)


def rows(values: Tensor, bucket_size: int | None) -> Tensor:
    """The values in buckets `[buckets, size]`."""
    flat = values.reshape(-1)
    if bucket_size is None or flat.numel() <= bucket_size:
        return flat.unsqueeze(0)
    missing = -flat.numel() % bucket_size
    if missing:
        flat = torch.cat([flat, flat[-1:].expand(missing)])
    return flat.view(-1, bucket_size)


def _rounded(steps: Tensor, noise: Tensor | None) -> Tensor:
    if noise is None:
        return steps.detach().round()
    below = steps.detach().floor()
    return below + (noise <= steps.detach() - below)


def _nearest(scaled: Tensor, ordered: Tensor) -> Tensor:
    return torch.bucketize(scaled, (ordered[1:] + ordered[:-1]) / 2, right=True)


class _StraightThrough(torch.autograd.Function):
    """The second tensor, with the gradient handed to the first."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, placed: Tensor) -> Tensor:
        return placed.view_as(placed)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def _straight_through(values: Tensor, placed: Tensor) -> Tensor:
    result: Tensor = _StraightThrough.apply(values, placed)  # type: ignore[no-untyped-call]
    return result
