"""The plain Trainer on the labels alone, without a teacher: the Trainer's own cost."""

from __future__ import annotations

from torch import nn
from transformers import Trainer

from peers.implementations import hugging_face
from peers.turns import Batches
from peers.workloads import Workload


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    Trainer(args=hugging_face.arguments(data), **hugging_face.given(student, data)).train()
