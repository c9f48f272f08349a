"""Logits of examples and tokens, and objectives bound to as many classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.objectives import Objective, Pair
from hf_distill.tasks import TASKS
from tests.shapes import shape


def randn(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bound(name: str, task: str = "single_label", classes: int = 4, **settings: Any) -> Objective:
    objective = objectives.make(name, settings)
    objective.bind(Pair.from_shapes(shape(num_logits=classes), shape(num_logits=classes), TASKS[task]))
    return objective


def value(objective: Objective, student: Tensor, teacher: Tensor | None = None, labels: Any = None) -> Tensor:
    """The mean over what the objective counts; without padding, and every token is real."""
    ids = torch.zeros(student.shape[:2] if student.dim() == 3 else (len(student), 1), dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if labels is not None:
        batch["labels"] = torch.as_tensor(labels)
    shown = None if teacher is None else Activations(logits=teacher)
    return objective(Activations(logits=student), shown, batch) / objective.count(batch, objective.pair.task)


def gradient(objective: Objective, student: Tensor, teacher: Tensor | None = None, labels: Any = None) -> Tensor:
    leaf = student.clone().requires_grad_()
    value(objective, leaf, teacher, labels).backward()
    assert leaf.grad is not None
    return leaf.grad
