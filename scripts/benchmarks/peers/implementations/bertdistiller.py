"""bertdistiller's `MiniLMTrainer`."""

from __future__ import annotations

from bertdistiller import MiniLMTrainer, MiniLMTrainingArguments
from torch import nn

from peers.implementations import hugging_face
from peers.turns import Batches
from peers.workloads import Workload


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    teacher.config.architectures = ["BertForMaskedLM"]  # it looks there for the family
    arguments = hugging_face.arguments(
        data,
        MiniLMTrainingArguments,
        teacher_layer=workload.teacher_layers,
        student_layer=workload.student_layers,
        student_hidden_size=workload.student_width,
        student_attention_heads=workload.student_heads,
        num_relation_heads=workload.relation_heads,
    )
    MiniLMTrainer(args=arguments, teacher_model=teacher, **hugging_face.given(student, data)).train()
