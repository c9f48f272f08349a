"""The optimizer of every implementation."""

from __future__ import annotations

import torch
from torch import nn

SETTINGS = {"lr": 1e-4, "weight_decay": 0.01, "fused": True}


def adamw(student: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW((p for p in student.parameters() if p.requires_grad), **SETTINGS)


def step(optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    optimizer.zero_grad()
