"""MiniLM's relation loss, a few texts at a time, its gradient formed in the forward pass.

The scores of two texts (12 x 128 x 128 numbers each) stay in the cache of one core; those of a whole batch do not.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEXTS = 2
"""Texts at a time."""


class BlockedRelation(torch.autograd.Function):
    """KL between softmax(t t^T / sqrt(d)) of the teacher and the same of the student, the mean over heads and real
    tokens of each text, then over texts. Must be added to the root of the graph with weight one."""

    @staticmethod
    def forward(ctx, student, teacher, lengths: list[int], heads: int):  # type: ignore[no-untyped-def]
        gradient, total = torch.zeros_like(student), student.new_zeros(())
        for start in range(0, len(lengths), TEXTS):
            part = slice(start, start + TEXTS)
            total += block(student[part], teacher[part], lengths[part], heads, len(lengths), gradient[part])
        ctx.gradient = gradient
        return total

    @staticmethod
    def backward(ctx, _):  # type: ignore[no-untyped-def]
        return ctx.gradient, None, None, None


def by_head(states: Tensor, heads: int) -> Tensor:
    """[texts, tokens, width] as [texts, heads, tokens, width / heads]."""
    return states.unflatten(-1, (heads, -1)).transpose(1, 2)


def block(student: Tensor, teacher: Tensor, lengths: list[int], heads: int, batch: int, into: Tensor) -> Tensor:
    """The loss of some texts; the gradient of the student's states is written into `into`."""
    longest = max(lengths)
    ours = by_head(student[:, :longest], heads).contiguous()
    theirs = by_head(teacher[:, :longest], heads).contiguous()
    counts = torch.tensor(lengths, device=student.device)
    weights = (1.0 / (counts * heads * batch)).to(student.dtype).view(-1, 1, 1, 1)
    scale = 1.0 / math.sqrt(ours.shape[-1])
    scores = (ours * scale) @ ours.transpose(2, 3)
    targets = (theirs / math.sqrt(theirs.shape[-1])) @ theirs.transpose(2, 3)
    if min(lengths) < longest:
        padding = torch.arange(longest, device=student.device) >= counts[:, None]
        scores.masked_fill_(padding[:, None, None, :], -1e9)
        targets.masked_fill_(padding[:, None, None, :], -1e9)
        weights = weights * ~padding[:, None, :, None]
    log_z_ours, log_z_theirs = scores.logsumexp(-1, keepdim=True), targets.logsumexp(-1, keepdim=True)
    difference = targets - scores
    p = targets.sub_(log_z_theirs).exp_()
    rows = difference.mul_(p).sum(-1, keepdim=True).add_(log_z_ours).sub_(log_z_theirs)
    into_scores = scores.sub_(log_z_ours).exp_().sub_(p).mul_(weights).mul_(scale)
    into_states = into_scores @ ours
    into_states += into_scores.transpose(2, 3) @ ours
    into[:, :longest] = into_states.transpose(1, 2).flatten(2)
    return (rows * weights).sum()
