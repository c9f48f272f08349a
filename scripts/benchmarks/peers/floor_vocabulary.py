"""Two vocabulary heads and the divergence between them, a few rows at a time.

The gradient with respect to the student's states, weight and bias is formed in the forward pass, so that neither
model's logits ever exist in full.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """A teacher's states `[rows, width]` in front of its head, and that head."""

    states: Tensor
    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True)
class Divergence:
    """`soft` times generalised JSD (beta 0: KL(teacher || student)) of the laws at `temperature`, summed over rows,
    plus `hard` times cross-entropy, summed over the rows whose label is not negative; `rows` at a time."""

    soft: float
    temperature: float = 1.0
    beta: float = 0.0
    hard: float = 0.0
    rows: int = 128


class ChunkedHeads(torch.autograd.Function):
    """The loss of a `Divergence` between two heads. It must be the root of the graph or be added to it with weight
    one: the gradients that were made in the forward pass are not scaled again."""

    @staticmethod
    def forward(ctx, states, weight, bias, teacher: Head, labels, form: Divergence):  # type: ignore[no-untyped-def]
        into_states, into_weight = torch.empty_like(states), torch.zeros_like(weight)
        into_bias = None if bias is None else torch.zeros_like(bias)
        room = states.new_empty(2, min(form.rows, len(states)), len(weight))
        total = states.new_zeros(())
        for start in range(0, len(states), form.rows):
            part = slice(start, start + form.rows)
            ours = logits(states[part], weight, bias, room[0])
            theirs = logits(teacher.states[part], teacher.weight, teacher.bias, room[1])
            loss, gradient = chunk(ours, theirs, None if labels is None else labels[part], form)
            total += loss
            torch.mm(gradient, weight, out=into_states[part])
            torch.addmm(into_weight, gradient.t(), states[part], out=into_weight)
            if into_bias is not None:
                into_bias += gradient.sum(0)
        ctx.gradients = (into_states, into_weight, into_bias)
        return total

    @staticmethod
    def backward(ctx, _):  # type: ignore[no-untyped-def]
        return *ctx.gradients, None, None, None


def logits(states: Tensor, weight: Tensor, bias: Tensor | None, room: Tensor) -> Tensor:
    out = room[: len(states)]
    if bias is None:
        return torch.mm(states, weight.t(), out=out)
    return torch.addmm(bias, states, weight.t(), out=out)


def chunk(ours: Tensor, theirs: Tensor, labels: Tensor | None, form: Divergence) -> tuple[Tensor, Tensor]:
    """The loss of some rows and its gradient with respect to the student's logits, whose memory the gradient takes."""
    labelled = None if labels is None or not form.hard else cross_entropy(ours, labels, form.hard)
    if form.temperature != 1.0:
        ours.div_(form.temperature)
        theirs.div_(form.temperature)
    loss, gradient = (forward_kl if form.beta == 0.0 else jensen_shannon)(ours, theirs, form)
    if labelled is not None:
        hard, rows, into_rows = labelled
        loss = loss + hard
        gradient.index_add_(0, rows, into_rows)
    return loss, gradient


def cross_entropy(ours: Tensor, labels: Tensor, weight: float) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted loss of the labelled rows, their indices, and the gradient of their logits."""
    rows = torch.where(labels >= 0)[0]
    right = labels[rows, None]
    log_q = torch.log_softmax(ours[rows], -1)
    loss = -weight * log_q.gather(1, right).sum()
    gradient = log_q.exp_().scatter_add_(1, right, log_q.new_full(right.shape, -1.0))
    return loss, rows, gradient.mul_(weight)


def forward_kl(ours: Tensor, theirs: Tensor, form: Divergence) -> tuple[Tensor, Tensor]:
    """sum p (log p - log q), and (q - p) / T."""
    log_z_ours, log_z_theirs = ours.logsumexp(-1, keepdim=True), theirs.logsumexp(-1, keepdim=True)
    difference = theirs - ours
    p = theirs.sub_(log_z_theirs).exp_()
    loss = torch.dot(p.view(-1), difference.view(-1)) + (log_z_ours - log_z_theirs).sum()
    q = ours.sub_(log_z_ours).exp_()
    return form.soft * loss, q.sub_(p).mul_(form.soft / form.temperature)


def jensen_shannon(ours: Tensor, theirs: Tensor, form: Divergence) -> tuple[Tensor, Tensor]:
    """b KL(p || m) + (1 - b) KL(q || m) with m = b p + (1 - b) q, and (1 - b) q (log q/m - KL(q || m)) / T."""
    beta = form.beta
    log_q, log_p = ours.sub_(ours.logsumexp(-1, keepdim=True)), theirs.sub_(theirs.logsumexp(-1, keepdim=True))
    q, p = log_q.exp(), log_p.exp()
    log_m = torch.mul(p, beta).add_(q, alpha=1 - beta).log_()
    of_teacher = torch.dot(p.view(-1), log_p.sub_(log_m).view(-1))
    log_ratio = log_q.sub_(log_m)
    of_student = (q * log_ratio).sum(-1, keepdim=True)
    loss = beta * of_teacher + (1 - beta) * of_student.sum()
    return form.soft * loss, log_ratio.sub_(of_student).mul_(q).mul_(form.soft * (1 - beta) / form.temperature)
