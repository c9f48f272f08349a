"""NVIDIA's modelopt: `mtd.convert` in a loop for classifiers, `KDTrainer` for causal models."""

from __future__ import annotations

import modelopt.torch.distill as mtd
from modelopt.torch.distill.plugins.huggingface import KDTrainer
from torch import nn

from peers import textbook
from peers.implementations import hugging_face
from peers.implementations.optimizer import adamw, step
from peers.turns import Batches
from peers.workloads import Workload


def classifier(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    criterion = mtd.LogitsDistillationLoss(temperature=workload.temperature, reduction="batchmean")
    config = {
        "teacher_model": teacher,
        "criterion": {("classifier", "classifier"): criterion},
        "loss_balancer": mtd.StaticLossBalancer(1 - textbook.ALPHA),
    }
    optimizer = adamw(student)
    model = mtd.convert(student, mode=[("kd_loss", config)])
    model.train()
    for index in range(len(data)):
        outputs = model(**data[index])
        model.compute_kd_loss(student_loss=outputs.loss).backward()
        step(optimizer)


def causal_lm(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    KDTrainer(
        args=hugging_face.arguments(data),
        distill_args={"teacher_model": teacher, "temperature": workload.temperature},
        **hugging_face.given(student, data),
    ).train()


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    train = classifier if workload.kind == "classifier" else causal_lm
    train(workload, teacher, student, data)
