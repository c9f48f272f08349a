"""`DistillationTrainer`, as its documentation shows it."""

from __future__ import annotations

from torch import nn

from hf_distill import DistillationTrainer, HiddenCosine, Labels, MiniLMv2, SoftTargets
from peers import textbook
from peers.implementations import hugging_face
from peers.turns import Batches
from peers.workloads import Workload


def objectives(workload: Workload):  # type: ignore[no-untyped-def]
    """The terms of a workload's loss."""
    if workload.kind == "classifier":
        soft = SoftTargets(temperature=workload.temperature)
        return (1 - textbook.ALPHA) * soft + textbook.ALPHA * Labels()
    if workload.kind == "relations":
        return MiniLMv2(relation_heads=workload.relation_heads)
    if workload.kind == "causal_lm":
        kind = "forward_kl" if workload.beta == 0.0 else "jsd"
        return SoftTargets(kind=kind, temperature=workload.temperature, beta=workload.beta)
    soft, hard, cosine = textbook.TRIPLE
    return (
        soft * SoftTargets(temperature=workload.temperature)
        + hard * Labels()
        + cosine * HiddenCosine(layer_map="final")
    )


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    DistillationTrainer(
        args=hugging_face.arguments(data),
        teacher=teacher,
        objectives=objectives(workload),
        **hugging_face.given(student, data),
    ).train()
