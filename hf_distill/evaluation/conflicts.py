"""Whether the terms of a loss pull the same way: the angles between their gradients, and what is left without what
they take from each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from hf_distill.errors import DistillationError
from hf_distill.losses import unit

if TYPE_CHECKING:
    from hf_distill.trainer import DistillationTrainer


class Conflicts(NamedTuple):
    """The cosines `[terms, terms]` between the gradients of the terms named, on one parameter of the student."""

    terms: tuple[str, ...]
    cosines: Tensor


def gradient_cosines(gradients: Tensor) -> Tensor:
    """cos(g_i, g_j) of the rows of `[terms, parameters]`; 0 where a gradient is 0. Below 0 two terms conflict."""
    directions = unit(gradients)
    return directions @ directions.mT


def pcgrad(gradients: Tensor, order: Sequence[int] | None = None) -> Tensor:
    """Gradients without what conflicts (Yu et al., 2020, arXiv:2001.06782): `[terms, parameters]` to the same.

    For each g_i, and each other j in `order` (ascending when left out; the paper shuffles it), g_i loses its part
    along the original g_j if they point against each other: g_i <- g_i - (g_i . g_j) g_j / |g_j|^2 where
    g_i . g_j < 0. Their sum would be the gradient of a step. It needs the gradient of every term before processes add
    theirs up, which no engine keeps, so it is no part of training here.
    """
    projected = gradients.clone()
    for i, row in enumerate(projected):
        for j in range(len(gradients)) if order is None else order:
            other = gradients[j]
            against = torch.minimum(row @ other, row.new_zeros(()))
            if j != i:
                row -= against / other.square().sum().clamp(min=torch.finfo(row.dtype).tiny) * other
    return projected


def clip_to_task(task: Tensor, transfer: Tensor, epoch: float, start: float) -> Tensor:
    """The gradient of one parameter tensor in which a transfer term gives way to the task (Lee, Kim & Song, 2018,
    arXiv:1807.06819): task + transfer min(1, |task| sigmoid(`epoch` - `start`) / |transfer|).

    As `pcgrad`, it needs both gradients apart, and is no part of training here.
    """
    share = 0.5 + 0.5 * math.tanh(0.5 * (epoch - start))
    sizes = [torch.linalg.vector_norm(each) for each in (task, transfer)]
    smallest = torch.finfo(transfer.dtype).tiny
    clipped: Tensor = task + transfer * (sizes[0] * share / sizes[1].clamp(min=smallest)).clamp(max=1.0)
    return clipped


def gradient_conflicts(trainer: DistillationTrainer, batch: Mapping[str, Any], parameter: str) -> Conflicts:
    """Of each term its gradient on one parameter of the student, by its name, for one batch; without dropout, and
    before any weight. Nothing of the training changes; it costs a forward pass for each term.

    The last layer that the terms share says the most; a parameter that a term does not reach has the gradient 0.

    Raises: `DistillationError` with several processes or a loss scaler, where gradients are only there reduced or
    scaled, and for a parameter that does not exist or does not train.
    """
    accelerator, distillation = trainer.accelerator, trainer.distillation
    if accelerator.num_processes > 1 or accelerator.scaler is not None:
        found = f"{accelerator.num_processes} processes" if accelerator.num_processes > 1 else "a loss scaler (fp16)"
        raise DistillationError(
            f"gradients of single terms are looked at in one process without scaling, and there is {found}; measure "
            "in a run of one process."
        )
    target = dict(distillation.student.named_parameters()).get(parameter)
    if target is None or not target.requires_grad:
        names = [name for name, each in distillation.student.named_parameters() if each.requires_grad]
        state = "does not exist" if target is None else "does not train"
        raise DistillationError(
            f"the parameter {parameter!r} of the student {state}; those that train are like {', '.join(names[:3])}."
        )
    batch = trainer._prepare_inputs(batch)
    training = distillation.training
    distillation.eval()
    try:
        rows = [_gradient(trainer, batch, name, target) for name in distillation.objectives]
    finally:
        distillation.train(training)
    return Conflicts(tuple(distillation.objectives), gradient_cosines(torch.stack(rows)))


def _gradient(trainer: DistillationTrainer, batch: Mapping[str, Any], term: str, target: Tensor) -> Tensor:
    with trainer.distillation.weights.only(term), torch.enable_grad():
        (found,) = torch.autograd.grad(trainer.compute_loss(trainer.model, batch), [target], allow_unused=True)
    return torch.zeros_like(target).flatten() if found is None else found.flatten()
