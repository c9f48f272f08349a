"""What golden cases are made of: stored inputs as tensors, and an objective bound to the shapes that they have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.objectives import Pair, Terms
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape

WHOLE = ("labels", "mask", "attention_mask", "nsp_labels", "ids", "index", "negatives", "select", "y")
"""Inputs that are whole numbers."""
RAGGED = ("g_tok", "g_chan")
"""Inputs that are lists of tensors of several shapes."""
LAYERS = ("s_layers", "t_layers")
"""Inputs that are the states of several layers, whose widths may differ: `s_layers.0`, `s_layers.1` ..."""


@dataclass
class Setup:
    """A case in the package's words. `leaves` are the tensors whose gradients are stored, by their golden names."""

    terms: Terms
    pair: Pair
    student: Activations
    teacher: Activations
    batch: dict[str, Tensor]
    leaves: dict[str, Tensor] = field(default_factory=dict)
    divide: bool = True

    def loss(self) -> Tensor:
        total = torch.zeros(())
        for term in self.terms:
            value = term.objective(self.student, self.teacher, self.batch)
            count = term.objective.count(self.batch, self.pair.task)
            total = total + term.weight * (value / max(int(count), 1) if self.divide else value)
        return total


def by_layer(named: dict[str, Any]) -> dict[str, Any]:
    """The same with an entry for each layer."""
    found: dict[str, Any] = {}
    for name, value in named.items():
        found |= {f"{name}.{i}": layer for i, layer in enumerate(value)} if name in LAYERS else {name: value}
    return found


class Inputs:
    """A case's inputs as tensors; those with a stored gradient are leaves, the student's states if none has one."""

    def __init__(self, case: dict[str, Any], dtype: torch.dtype) -> None:
        self.wanted = by_layer(case["expected"].get("grad", {}))
        self.leaves: dict[str, Tensor] = {}
        self.values: dict[str, Tensor] = {}
        self.lists: dict[str, list[Any]] = {}
        for name, value in by_layer(case["inputs"]).items():
            if name in RAGGED:
                self.lists[name] = value
                continue
            tensor = torch.tensor(value, dtype=torch.long if name in WHOLE else dtype)
            if name in self.wanted or (name == "s" and not self.wanted):
                self.leaves[name] = tensor.requires_grad_()
            self.values[name] = tensor

    def __getitem__(self, name: str) -> Tensor:
        return self.values[name]

    def get(self, name: str) -> Tensor | None:
        return self.values.get(name)


def bound(pair: Pair, *weighted: tuple[float, str, dict[str, Any]]) -> Terms:
    terms = Terms.of([weight * objectives.make(name, settings) for weight, name, settings in weighted])
    for term in terms:
        term.objective.bind(pair)
    return terms


def logits_case(inputs: Inputs, task: str, batch: dict[str, Tensor], weighted: list[Any], **alignment: Any) -> Setup:
    """A case over `logits` alone."""
    student = inputs.get("student_logits")
    student = student if student is not None else inputs.get("logits")
    student = student if student is not None else inputs["student"]
    teacher = inputs.get("teacher_logits")
    teacher = teacher if teacher is not None else inputs.get("teacher")
    pair = Pair.from_shapes(
        shape(num_logits=student.shape[-1]),
        shape(num_logits=student.shape[-1] if teacher is None else teacher.shape[-1]),
        TASKS[task],
        **alignment,
    )
    ids = torch.zeros(student.shape[:2] if student.dim() == 3 else (len(student), 1), dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **batch}
    mask = batch["attention_mask"]
    shown = Activations(mask=mask, logits=teacher)
    return Setup(bound(pair, *weighted), pair, Activations(mask=mask, logits=student), shown, batch, inputs.leaves)


def labels_of(mask: Tensor) -> Tensor:
    return torch.where(mask.bool(), 0, IGNORED)
