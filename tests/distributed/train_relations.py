"""Run by torchrun: trains relations over the batches of all ranks together, and saves each rank's weights."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hf_distill import DistillationTrainer, objectives
from hf_distill.objectives import Terms
from tests import tiny

NAMES = (
    "pkt",
    "rkd_distance",
    "rkd_angle",
    "darkrank_hard",
    "darkrank_soft",
    "correlation_congruence",
    "similarity_preserving",
    "similarity_distribution",
    "cka",
    "crd",
    "dist",
    "ban_cwtm",
    "voted_triplets",
    "mhgd",
)


def names(wider: bool) -> tuple[str, ...]:
    """The relations between two models, those that take unlike widths where the teacher is `wider`."""
    return tuple(name for name in NAMES if not (wider and name == "mhgd"))


def terms(gather: bool, wider: bool) -> Terms:
    """Every relation over the batch, and one with a memory of the rows."""
    related = [0.2 * objectives.make(name, {"gather": gather}) for name in names(wider)]
    return Terms.of([*related, 0.2 * objectives.make("crd_memory", {"negatives": 5, "temperature": 0.5})])


def trained(gather: bool, wider: bool = False, **settings: Any) -> DistillationTrainer:
    """Three SGD steps of two micro-batches each, from the same start; texts of the batch are repeated."""
    torch.manual_seed(0)
    rows = tiny.rows("single_label", 48)
    rows[5] = rows[1]
    trainer = DistillationTrainer(
        model=tiny.model("single_label", layers=2, hidden=32, seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48 if wider else 32, seed=2),
        objectives=terms(gather, wider),
        args=tiny.arguments(gradient_accumulation_steps=2, max_steps=3, learning_rate=0.05, **settings),
        train_dataset=rows,
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


def state(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    """Weights of the student, and all that the objectives keep."""
    student = {f"student.{name}": each for name, each in trainer.model.named_parameters()}
    kept = {f"objectives.{name}": each for name, each in trainer.distillation.objectives.state_dict().items()}
    return {name: tensor.detach().clone() for name, tensor in {**student, **kept}.items()}


def main() -> None:
    folder, wider = Path(sys.argv[1]), sys.argv[2:] == ["wider"]
    processes = int(os.environ["WORLD_SIZE"])
    trainer = trained(gather=True, wider=wider, per_device_train_batch_size=8 // processes)
    if trainer.accelerator.num_processes != processes:
        raise SystemExit(f"not {processes} processes")
    if trainer.model_wrapped.broadcast_buffers:
        raise SystemExit("the memory of all rows is sent at every step")
    save_file(state(trainer), folder / f"{trainer.args.process_index}.safetensors")
    if trainer.is_world_process_zero():
        logged = [row for row in trainer.state.log_history if "objective/pkt" in row]
        lines = [f"{name} {row[f'objective/{name}']}" for row in logged for name in (*names(wider), "crd_memory")]
        (folder / "values").write_text("\n".join(lines))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
