"""The plain Trainer with the textbook loss in `compute_loss`: what most people write."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import Trainer

from peers.implementations import hugging_face
from peers.implementations.stock import StockLoss
from peers.turns import Batches
from peers.workloads import Workload


class HandWritten(Trainer):
    loss: StockLoss

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        return self.loss(model, inputs)


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    trainer = HandWritten(args=hugging_face.arguments(data), **hugging_face.given(student, data))
    trainer.loss = StockLoss(workload, teacher, student)
    trainer.train()
