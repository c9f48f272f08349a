"""Leading singular vectors of each text's states, with gradients that stay finite.

The matrix A `[tokens, width]` of a text has right vectors v_j, directions among the features, and left vectors u_j,
weights of the tokens, with A v_j = s_j u_j. Both come from the smaller of A A^T and A^T A, decomposed in float64; rows
of zeros, as padding has them, change nothing.

Of a symmetric K with eigenvectors e_m and eigenvalues s_m^2, de_j = sum_{m != j} e_m (e_m . dK e_j) / (s_j^2 - s_m^2).
The expression e_j + sum_{m != j} e_m (e_m . (K e_j - s_j^2 e_j)) / (s_j^2 - s_m^2), in which K alone has a gradient,
has the value e_j and that derivative. Only gaps to s_j enter: equal values among the others, at which the derivative
of a whole decomposition is NaN, do not matter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from hf_distill.losses import unit

TIE = 1e-4
"""Singular values closer than this share of the largest have vectors whose gradient has no bound."""

SMALL = 1e-6
"""A singular value of at most this share of the largest is 0 but for rounding, and its vector any that is left."""


class Singular(NamedTuple):
    """The first singular vectors of each text, `[batch, count, size]`, largest value first, and of each, `[batch,
    count]`: its value, without a gradient; `usable`, whether that is not 0, else the vector is; `safe`, whether no
    other value is near, else the vector has no gradient.
    """

    vectors: Tensor
    values: Tensor
    usable: Tensor
    safe: Tensor


def leading(states: Tensor, count: int, side: str, towards: Tensor | None = None) -> Singular:
    """The first `count` `right` or `left` vectors of states `[batch, length, width]`, which are 0 at positions that do
    not count; fewer where length or width is smaller.

    Signs are such that v_j . t >= 0, t a row of `towards` `[batch, width]`, left out the sum of the states; the left
    vector goes with the right one. States that are not finite give NaN. Takes b m^3 + b m^2 max(length, width)
    steps and b m^2 numbers, m the smaller of length and width. On an accelerator the host waits for the decomposition.
    """
    wide = states.double()
    by_tokens = wide.shape[1] <= wide.shape[2]
    turned = wide.mT if by_tokens else wide
    found = _eigenvectors(turned.mT @ turned, count)
    vectors = found.vectors if (side == "left") == by_tokens else unit(found.vectors @ turned.mT)
    ends = (wide.sum(1) if towards is None else towards.double()).detach().unsqueeze(2)
    along = ends if side == "right" else wide.detach() @ ends  # u_j . A t = s_j (v_j . t)
    backwards = vectors.detach() @ along < 0
    signed = torch.where(backwards, -vectors, vectors)
    held = torch.where(found.safe.unsqueeze(-1), signed, signed.detach())
    kept = torch.where(found.usable.unsqueeze(-1), held, 0.0)
    return found._replace(vectors=kept.to(states.dtype), values=found.values.to(states.dtype))


def _eigenvectors(gram: Tensor, count: int) -> Singular:
    """The first eigenvectors of symmetric matrices `[batch, size, size]`; values are roots of eigenvalues."""
    given = gram.detach()
    finite = given.isfinite().flatten(1).all(1)[:, None]
    squares, basis = torch.linalg.eigh(torch.where(finite.unsqueeze(2), given, 0.0))
    squares, basis = squares.flip(-1).clamp(min=0.0), basis.flip(-1)
    squares = torch.where(finite, squares, torch.nan)
    values, first, chosen = squares.sqrt(), basis[..., :count], squares[:, :count]
    itself = torch.eye(chosen.shape[1], squares.shape[1], dtype=torch.bool, device=gram.device)
    gaps = (values[:, :count, None] - values[:, None]).abs()
    near = (gaps < TIE * values[:, :1, None]) & ~itself
    differences = chosen.unsqueeze(2) - squares.unsqueeze(1)
    left_out = near | itself | (differences == 0)
    inverse = torch.where(left_out, 0.0, 1.0 / torch.where(left_out, 1.0, differences))
    residual = gram @ first - first * chosen.unsqueeze(1)
    vectors = first + basis @ (inverse.mT * (basis.mT @ residual))
    usable = ~(values[:, :count] <= SMALL * values[:, :1])
    return Singular(vectors.mT, values[:, :count], usable, ~near.any(-1))


def aligned(student: Singular, teacher: Singular) -> tuple[Tensor, Tensor]:
    """For each vector of the teacher the student's that is most like it, up to the sign, with the sign that fits,
    `[batch, count, size]`; and which of these have no gradient because another singular value is near, `[batch,
    count]`.
    """
    cosines = teacher.vectors @ student.vectors.detach().mT
    best = cosines.abs().masked_fill(~student.usable.unsqueeze(1), -1.0).argmax(-1, keepdim=True)
    vectors = student.vectors.gather(1, best.expand(-1, -1, student.vectors.shape[-1]))
    unsafe, usable = (each.gather(1, best.squeeze(-1)) for each in (~student.safe, student.usable))
    return torch.where(cosines.gather(2, best) < 0, -vectors, vectors), unsafe & usable
