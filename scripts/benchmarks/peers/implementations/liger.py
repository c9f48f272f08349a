"""Liger's chunked JSD over the models' last hidden states, in a loop.

Its Triton kernels need a GPU; this loss is plain PyTorch. Compilation is off, and chunks have as many rows as the
floor's.
"""

from __future__ import annotations

import torch
from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss
from torch import Tensor, nn

from peers.implementations.optimizer import adamw, step
from peers.turns import Batches
from peers.workloads import Workload

ROWS = 128


def states(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    outputs = model.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return outputs.last_hidden_state[:, :-1].flatten(0, 1)


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    loss = LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=workload.beta,
        temperature=workload.temperature,
        compiled=False,
        chunk_size=ROWS,
    )
    optimizer = adamw(student)
    for index in range(len(data)):
        batch = data[index]
        with torch.no_grad():
            theirs = states(teacher, batch)
        ours = states(student, batch)
        labels = batch["labels"][:, 1:].flatten()
        loss(ours, student.lm_head.weight, theirs, teacher.lm_head.weight, labels).backward()
        step(optimizer)
