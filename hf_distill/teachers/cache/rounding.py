"""Rounding a row's axes one after the other, each making up for the errors of those before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hf_distill.teachers.cache.codecs import Head
from hf_distill.teachers.cache.rotation import Rotation, head_slopes, nearest

CLASSES = 128
"""Classes of a row that its sensitivity is made of, the likeliest."""

OWN = 0.8
"""Weight of a row's own sensitivity; the rest is the mean one, the identity."""

BLOCK = 96
"""Axes whose coupling is formed at once."""

ROWS = 64

MOST_SENSITIVE = 1e5
"""Largest |F|^2 of a row. Beyond it the identity is lost in rounding, and only ratios within F matter."""


@dataclass(frozen=True)
class Sensitivity:
    """How the head's logits follow the axes: `slopes` [vocabulary, axes] in bfloat16."""

    head: Head
    slopes: Tensor

    @classmethod
    def of(cls, head: Head, rotation: Rotation) -> Sensitivity:
        slopes = rotation.backward @ head_slopes(head, rotation.centre, rotation.length)
        return cls(head, slopes.T.contiguous().bfloat16())

    def factor(self, rows: Tensor) -> Tensor:
        """F `[rows, axes, classes]` with own / (1 - own) M = F F^T, M = sum_c p_c (w_c - mean)(w_c - mean)^T over a
        row's likeliest classes and their slopes w_c."""
        logits, ids = self.head(rows).float().topk(min(CLASSES, len(self.slopes)), dim=-1)
        law = logits.softmax(-1).unsqueeze(-1)
        slopes = self.slopes[ids].float()
        factor = law.sqrt() * (slopes - (law * slopes).sum(1, keepdim=True))
        factor = math.sqrt(OWN / (1.0 - OWN)) * factor.mT
        size = factor.square().sum((1, 2), keepdim=True)
        limited: Tensor = factor * (MOST_SENSITIVE / size.clamp(min=MOST_SENSITIVE)).sqrt()
        return limited


def round_in_turn(axes: Tensor, scales: Tensor, rows: Tensor, sensitivity: Sensitivity, rotation: Rotation) -> Tensor:
    """Levels `[rows, axes]` of axes over their row's scale, for which e (I + s^2 F F^T) e^T is small: e the error, s
    the scale."""
    levels = [torch.zeros_like(axes[:0])]
    for some in torch.split(torch.arange(len(rows), device=rows.device), ROWS):
        factor = sensitivity.factor(rows[some]) * scales[some].float().unsqueeze(2)
        levels.append(_round(axes[some], factor, rotation.steps, rotation.most))
    return torch.cat(levels)


def _round(axes: Tensor, factor: Tensor, steps: Tensor, most: Tensor) -> Tensor:
    """From the last axis to the first, in blocks; axes before one that is rounded will make up for its error.

    What the axes before a block cannot make up for is measured by `inner`, P in |v|^2 -> v P v^T for an effect v on
    the classes: P = (I + F^T F)^-1 over them, the identity before the first block. `carried` is e F over the blocks
    that are done.
    """
    num_rows, num_axes, classes = factor.shape
    inner = torch.eye(classes, device=axes.device).expand(num_rows, -1, -1)
    blocks = []
    for start in range(0, num_axes, BLOCK):
        here = slice(start, start + BLOCK)
        block = factor[:, here]
        reach = block @ inner
        own = torch.eye(block.shape[1], device=axes.device)
        root = torch.linalg.cholesky(torch.baddbmm(own, reach, block.mT))
        reach = torch.linalg.solve_triangular(root, reach, upper=False)
        inner = torch.baddbmm(inner, reach.mT, reach, alpha=-1.0)
        blocks.append((here, block, root, reach))
    levels = torch.zeros_like(axes)
    carried = axes.new_zeros(num_rows, classes, 1)
    for here, block, root, reach in reversed(blocks):
        pull = (reach @ carried)[..., 0]
        levels[:, here], errors = _round_block(axes[:, here], pull, root, steps[here], most[here])
        carried = carried + block.mT @ errors.unsqueeze(2)
    return levels


def _round_block(axes: Tensor, pull: Tensor, root: Tensor, steps: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Levels and errors e of a block that make |e root + pull|^2 small, which the lower triangle `root` splits into
    one square an axis."""
    scale = root.diagonal(dim1=1, dim2=2)
    unit, pull = root / scale.unsqueeze(1), pull / scale
    levels, errors = torch.zeros_like(axes), torch.zeros_like(axes)
    for axis in range(axes.shape[1] - 1, -1, -1):
        wanted = -pull[:, axis] - (unit[:, axis + 1 :, axis] * errors[:, axis + 1 :]).sum(1)
        levels[:, axis] = nearest(axes[:, axis] + wanted, steps[axis], most[axis])
        errors[:, axis] = (levels[:, axis] - 0.5 * most[axis]) * steps[axis] - axes[:, axis]
    return levels, errors
