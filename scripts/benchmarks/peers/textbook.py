"""The losses of the workloads as they are usually written: whole tensors, through autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from peers.workloads import IGNORED, Workload

ALPHA = 0.5
"""Weight of the labels in `classifier`; the teacher has the rest."""
TRIPLE = (5.0, 2.0, 1.0)
"""DistilBERT's weights of soft targets, masked-LM labels and the cosine of the last hidden states."""


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student), averaged over rows."""
    log_q = functional.log_softmax(student / temperature, -1)
    p = functional.softmax(teacher / temperature, -1)
    return temperature**2 * functional.kl_div(log_q, p, reduction="batchmean")


def classifier(workload: Workload, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """0.5 CE + 0.5 T^2 KL."""
    kl = divergence(student, teacher, workload.temperature)
    return ALPHA * functional.cross_entropy(student, labels) + (1 - ALPHA) * kl


def relations(workload: Workload, student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Queries with queries, keys with keys, values with values: KL of softmax(x x^T / sqrt(d)), the mean over relation
    heads and real tokens of each text, then over texts."""
    hidden = (1.0 - mask[:, None, None, :].float()) * torch.finfo(torch.float32).min

    def scores(projected: Tensor) -> Tensor:
        parts = projected.unflatten(-1, (workload.relation_heads, -1)).transpose(1, 2)
        return parts @ parts.transpose(2, 3) / math.sqrt(parts.shape[-1]) + hidden

    total = torch.zeros((), device=mask.device)
    for ours, theirs in zip(student, teacher, strict=True):
        log_q = functional.log_softmax(scores(ours), -1)
        p = functional.softmax(scores(theirs), -1)
        rows = functional.kl_div(log_q, p, reduction="none").sum(-1).mean(1) * mask
        total = total + (rows.sum(1) / mask.sum(1)).mean()
    return total


def masked_lm(
    workload: Workload,
    logits: tuple[Tensor, Tensor],
    hidden: tuple[Tensor, Tensor],
    mask: Tensor,
    labels: Tensor,
) -> Tensor:
    """5 T^2 KL over real tokens + 2 CE over masked tokens + (1 - cosine) of the last hidden states; each pair holds
    the student's first."""
    real = mask.bool()
    soft, hard, cosine = TRIPLE
    kl = divergence(logits[0][real], logits[1][real], workload.temperature)
    ce = functional.cross_entropy(logits[0].flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    ours, theirs = hidden[0][real], hidden[1][real]
    same = torch.ones(len(ours), device=ours.device)
    return soft * kl + hard * ce + cosine * functional.cosine_embedding_loss(ours, theirs, same)


def causal_lm(workload: Workload, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Generalised JSD at temperature 1, the mean over target tokens; beta 0 is KL(teacher || student)."""
    target = labels[:, 1:] != IGNORED
    log_q = functional.log_softmax(student[:, :-1][target], -1)
    log_p = functional.log_softmax(teacher[:, :-1][target], -1)
    beta = workload.beta
    if beta == 0.0:
        return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
    log_m = torch.logaddexp(log_p + math.log(beta), log_q + math.log(1 - beta))
    of_teacher = functional.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
    of_student = functional.kl_div(log_m, log_q, reduction="batchmean", log_target=True)
    return beta * of_teacher + (1 - beta) * of_student
