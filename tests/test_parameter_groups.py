"""Parameters at rates of their own."""

from __future__ import annotations

import torch
from torch import nn

from hf_distill.parameter_groups import ParameterGroup, regroup


def parameters(number: int) -> list[nn.Parameter]:
    return [nn.Parameter(torch.ones(1)) for _ in range(number)]


def test_groups_of_their_own_lie_behind_the_others() -> None:
    a, b, c, d, e = parameters(5)
    optimizer = torch.optim.AdamW(
        [{"params": [a, b], "weight_decay": 0.1}, {"params": [c, d, e], "weight_decay": 0.0}], lr=0.5
    )
    regroup(optimizer, [ParameterGroup([b, d], 0.01), ParameterGroup([e], 0.02, 0.3)])
    found = [
        ([id(p) for p in group["params"]], group["lr"], group["weight_decay"]) for group in optimizer.param_groups
    ]
    assert found == [
        ([id(a)], 0.5, 0.1),
        ([id(c)], 0.5, 0.0),
        ([id(b)], 0.01, 0.1),
        ([id(d)], 0.01, 0.0),
        ([id(e)], 0.02, 0.3),
    ]
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}


def test_what_the_optimizer_does_not_hold_stays_out() -> None:
    a, b = parameters(2)
    optimizer = torch.optim.SGD([a], lr=0.5)
    regroup(optimizer, [ParameterGroup([b], 0.01)])
    assert [group["params"] for group in optimizer.param_groups] == [[a]]


def test_a_group_that_is_all_moved_keeps_its_place() -> None:
    """The first group's rate is the one that is logged."""
    (a,) = parameters(1)
    optimizer = torch.optim.SGD([a], lr=0.5)
    regroup(optimizer, [ParameterGroup([a], 0.25)])
    assert [(group["params"], group["lr"]) for group in optimizer.param_groups] == [([], 0.5), ([a], 0.25)]
    a.grad = torch.ones(1)
    optimizer.step()
    assert a.item() == 0.75
