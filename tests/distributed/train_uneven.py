"""Run by torchrun: trains on rows that do not divide by the processes, and evaluates; saves each rank's weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from hf_distill import DistillationTrainer, HiddenMSE, Labels, Learned, SoftTargets
from hf_distill.objectives import Term, Terms
from tests import tiny

ROWS = 21
TASKS = ("single_label", "causal_lm")


def terms() -> Terms:
    """Counted by label, by token and by example, with two weights that are learned, at a cost for every batch."""
    learned = [Term(Labels(), Learned(0.1)), Term(SoftTargets(), Learned(0.1))]
    return Terms.of([*learned, HiddenMSE(layer_map="uniform", projection="shared")])


def figures(prediction: Any) -> dict[str, float]:
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    right = (logits.argmax(-1) == prediction.label_ids).mean()
    return {"rows": len(logits), "accuracy": float(right), "sum": float(np.abs(logits).sum(dtype=np.float64))}


def trained(task: str, **arguments: Any) -> DistillationTrainer:
    """Two epochs of SGD; every epoch ends with a batch that is not full."""
    torch.manual_seed(0)
    trainer = DistillationTrainer(
        model=tiny.model(task, layers=2, hidden=32, seed=1),
        teacher=tiny.model(task, layers=4, hidden=48, seed=2),
        objectives=terms(),
        args=tiny.arguments(max_steps=-1, num_train_epochs=2, learning_rate=0.05, **arguments),
        train_dataset=tiny.rows(task, ROWS),
        eval_dataset=tiny.rows(task, ROWS, seed=5),
        data_collator=tiny.Pad(),
        compute_metrics=figures if task == "single_label" else None,
    )
    trainer.train()
    return trainer


def told(trainer: DistillationTrainer) -> dict[str, Any]:
    """What is compared of a training besides its weights: logs and metrics."""
    measured = {k: v for k, v in trainer.evaluate().items() if "per_second" not in k and "runtime" not in k}
    logged = [{k: v for k, v in row.items() if "/" in k or k == "loss"} for row in trainer.state.log_history]
    return {"metrics": measured, "logged": [row for row in logged if "loss" in row]}


def main() -> None:
    folder, size = Path(sys.argv[1]), int(sys.argv[2])
    for task in TASKS:
        trainer = trained(task, per_device_train_batch_size=size, per_device_eval_batch_size=2)
        rank = trainer.args.process_index
        save_file(
            {name: each.detach().clone() for name, each in trainer.distillation.named_parameters()},
            folder / f"{task}-{rank}.safetensors",
        )
        (folder / f"{task}-{rank}.json").write_text(json.dumps(told(trainer)))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
