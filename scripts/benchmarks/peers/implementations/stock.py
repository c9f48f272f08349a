"""The textbook loss over the stock models, as a loop or a `compute_loss` calls it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peers import textbook
from peers.workloads import Workload

Batch = dict[str, Tensor]


class Projections:
    """Queries, keys and values of a model's last layer, by hooks."""

    def __init__(self, model: nn.Module) -> None:
        self._seen: dict[str, Tensor] = {}
        attention = model.encoder.layer[-1].attention.self
        for name in ("query", "key", "value"):
            getattr(attention, name).register_forward_hook(self._keep(name))

    def _keep(self, name: str) -> Any:
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            self._seen[name] = output

        return keep

    def take(self) -> list[Tensor]:
        """What the last forward pass showed; it is not kept."""
        return [self._seen.pop(name) for name in ("query", "key", "value")]


class StockLoss:
    """The loss of a batch, from the whole models."""

    def __init__(self, workload: Workload, teacher: nn.Module, student: nn.Module) -> None:
        self.workload, self.teacher = workload, teacher
        if workload.kind == "relations":
            self._shown = [Projections(student), Projections(teacher)]

    def __call__(self, student: nn.Module, batch: Batch) -> Tensor:
        kind = self.workload.kind
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        more = {"output_hidden_states": True} if kind == "masked_lm" else {}
        with torch.no_grad():
            theirs = self.teacher(**inputs, **more)
        ours = student(**inputs, **more)
        if kind == "classifier":
            return textbook.classifier(self.workload, ours.logits, theirs.logits, batch["labels"])
        if kind == "relations":
            student_parts, teacher_parts = (shown.take() for shown in self._shown)
            return textbook.relations(self.workload, student_parts, teacher_parts, batch["attention_mask"])
        if kind == "causal_lm":
            return textbook.causal_lm(self.workload, ours.logits, theirs.logits, batch["labels"])
        return textbook.masked_lm(
            self.workload,
            (ours.logits, theirs.logits),
            (ours.hidden_states[-1], theirs.hidden_states[-1]),
            batch["attention_mask"],
            batch["labels"],
        )
