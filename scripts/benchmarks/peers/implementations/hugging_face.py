"""What every implementation on the Hugging Face Trainer is given."""

from __future__ import annotations

import tempfile
from typing import Any

import transformers
from torch import nn
from transformers import TrainingArguments

from peers.implementations.optimizer import adamw
from peers.turns import Batches

QUIET: dict[str, Any] = {
    "use_cpu": True,
    "per_device_train_batch_size": 1,
    "learning_rate": 1e-4,
    "weight_decay": 0.01,
    "lr_scheduler_type": "constant",
    "max_grad_norm": 0.0,
    "train_sampling_strategy": "sequential",
    "logging_strategy": "no",
    "logging_nan_inf_filter": False,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "remove_unused_columns": False,
}


def arguments(data: Batches, kind: type[TrainingArguments] = TrainingArguments, **more: Any) -> TrainingArguments:
    """Arguments of a run without logs, clipping and checkpoints; a row of the data is a batch."""
    transformers.logging.set_verbosity_error()
    return kind(output_dir=tempfile.mkdtemp(), max_steps=len(data), **{**QUIET, **data.arguments, **more})


def first_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return rows[0]


def given(student: nn.Module, data: Batches) -> dict[str, Any]:
    """The Trainer's other arguments."""
    return {
        "model": student,
        "train_dataset": data,
        "data_collator": first_row,
        "optimizers": (adamw(student), None),
    }
