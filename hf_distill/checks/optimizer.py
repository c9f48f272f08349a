"""What an optimizer holds that the caller made."""

from __future__ import annotations

import torch
from torch import nn

from hf_distill.errors import DistillationError


def optimizer_is_complete(optimizer: torch.optim.Optimizer, objectives: nn.Module) -> None:
    """Refuses an optimizer, made by the caller, that would leave what the objectives learn as it was at the start."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    lost = [name for name, parameter in objectives.named_parameters() if id(parameter) not in held]
    if lost:
        raise DistillationError(
            f"the optimizer that was passed lacks {lost[0]!r} ({len(lost)} such parameters), which an objective "
            "or a peer learns. Leave optimizers=… out, or add trainer.distillation.beside.parameters() to it."
        )


def optimizer_is_current(optimizer: torch.optim.Optimizer, distillation: nn.Module) -> None:
    """Refuses an optimizer that would move parameters which the student had, in place of those that it has."""
    ours = {id(parameter) for parameter in distillation.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gone = sum(id(parameter) not in ours for parameter in held)
    if gone:
        raise DistillationError(
            f"{gone} of the {len(held)} parameters that the optimizer holds are no longer the student's: modules or "
            "parameters of it were replaced since. Set trainer.optimizer to one of the parameters at hand, or to None "
            "to have it made."
        )
