"""A hand-written loop over the stock models with the textbook loss."""

from __future__ import annotations

from torch import nn

from peers.implementations.optimizer import adamw, step
from peers.implementations.stock import StockLoss
from peers.turns import Batches
from peers.workloads import Workload


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    loss, optimizer = StockLoss(workload, teacher, student), adamw(student)
    for index in range(len(data)):
        loss(student, data[index]).backward()
        step(optimizer)
