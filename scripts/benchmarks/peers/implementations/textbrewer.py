"""TextBrewer's `GeneralDistiller`.

Its soft targets know no T^2, so their weight carries it, and are a cross-entropy, whose gradient is that of the KL.
The labels are the models' own loss. For the triple loss, the cosine of the last hidden states is an intermediate
match; the batch holds labels, so the teacher computes its own masked-LM loss as well.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from typing import Any

from textbrewer import DistillationConfig, GeneralDistiller, TrainingConfig
from textbrewer.presets import MATCH_LOSS_MAP
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from peers import textbook
from peers.implementations.optimizer import adamw
from peers.turns import Batches
from peers.workloads import Workload

COSINE = "cosine_of_real_tokens"


def cosine_of_real_tokens(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    real = mask.bool()
    return (1 - functional.cosine_similarity(student[real], teacher[real], -1)).mean()


def classifier_adaptor(batch: dict[str, Tensor], outputs: Any) -> dict[str, Any]:
    return {"logits": outputs.logits, "losses": outputs.loss}


def masked_lm_adaptor(batch: dict[str, Tensor], outputs: Any) -> dict[str, Any]:
    mask = batch["attention_mask"]
    return {
        "logits": outputs.logits,
        "logits_mask": mask,
        "inputs_mask": mask,
        "losses": outputs.loss,
        "hidden": outputs.hidden_states,
    }


def settings(workload: Workload) -> tuple[DistillationConfig, Callable[..., dict[str, Any]], dict[str, Any]]:
    """TextBrewer's configuration, the adaptor of both models, and what the models are called with besides."""
    squared = workload.temperature**2
    if workload.kind == "classifier":
        soft, hard = (1 - textbook.ALPHA) * squared, textbook.ALPHA
        config = DistillationConfig(
            temperature=workload.temperature, kd_loss_type="ce", kd_loss_weight=soft, hard_label_weight=hard
        )
        return config, classifier_adaptor, {}
    soft, hard, cosine = textbook.TRIPLE
    MATCH_LOSS_MAP[COSINE] = cosine_of_real_tokens
    match = {
        "layer_T": workload.teacher_layers,
        "layer_S": workload.student_layers,
        "feature": "hidden",
        "loss": COSINE,
        "weight": cosine,
    }
    config = DistillationConfig(
        temperature=workload.temperature,
        kd_loss_type="ce",
        kd_loss_weight=soft * squared,
        hard_label_weight=hard,
        intermediate_matches=[match],
    )
    return config, masked_lm_adaptor, {"output_hidden_states": True}


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    config, adaptor, more = settings(workload)
    folder = tempfile.mkdtemp()
    training = TrainingConfig(device="cpu", log_dir=None, output_dir=folder, ckpt_steps=sys.maxsize)
    loader = DataLoader(data, batch_size=None)
    distiller = GeneralDistiller(training, config, teacher, student, adaptor, adaptor)
    with distiller:
        distiller.train(adamw(student), loader, num_steps=len(data), **more)
