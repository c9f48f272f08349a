"""Parameters with a learning rate or a weight decay of their own, in the one optimizer of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn


class ParameterGroup(NamedTuple):
    """Parameters that do not train at the rates of the training arguments.

    `learning_rate` takes the place of the arguments' and follows the same schedule; `weight_decay` as well, and None
    leaves the arguments'.
    """

    parameters: Sequence[nn.Parameter]
    learning_rate: float
    weight_decay: float | None = None


def regroup(optimizer: torch.optim.Optimizer, own: Iterable[ParameterGroup]) -> None:
    """Moves parameters into groups of their own, behind those that the optimizer has.

    The first group keeps its place, since its learning rate is the one that is logged.
    """
    given = list(own)
    place = {id(parameter): i for i, group in enumerate(given) for parameter in group.parameters}
    kept: list[dict[str, Any]] = []
    apart: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        parts: dict[int | None, list[nn.Parameter]] = {None: []}
        for parameter in group["params"]:
            parts.setdefault(place.get(id(parameter)), []).append(parameter)
        kept.append({**group, "params": parts.pop(None)})
        apart += [_moved(group, parameters, given[i]) for i, parameters in parts.items() if i is not None]
    optimizer.param_groups = [*kept, *apart]


def _moved(group: dict[str, Any], parameters: list[nn.Parameter], own: ParameterGroup) -> dict[str, Any]:
    decay = {} if own.weight_decay is None or "weight_decay" not in group else {"weight_decay": own.weight_decay}
    return {**group, "params": parameters, "lr": own.learning_rate, **decay}
