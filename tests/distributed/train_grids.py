"""Run by torchrun: trains a student whose weights lie on a grid on both ranks, and saves what each rank learned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from hf_distill import DistillationTrainer, Labels, SoftTargets, students
from hf_distill.students.quantized import beneath
from tests import tiny

KINDS = ("uniform", "scale", "points")
SIZE = 64


def on_a_grid(kind: str) -> PreTrainedModel:
    student = tiny.model("single_label", seed=1)
    if kind == "points":
        return students.quantize_points(student, points=6, bucket_size=SIZE)
    return students.quantize_uniform(student, bits=3, bucket_size=SIZE, style="ste" if kind == "uniform" else "scale")


def trained(kind: str, **settings: Any) -> DistillationTrainer:
    """Three SGD steps of two micro-batches each, from the same start."""
    torch.manual_seed(0)
    rate = 1e-3 if kind == "points" else 0.02
    trainer = DistillationTrainer(
        model=on_a_grid(kind),
        teacher=tiny.model("single_label", layers=3, seed=2),
        objectives=SoftTargets(temperature=2.0) + 0.5 * Labels(),
        args=tiny.arguments(gradient_accumulation_steps=2, max_steps=3, learning_rate=rate, **settings),
        train_dataset=tiny.rows("single_label", 48),
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


def state(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    """The floats or points beneath the grid."""
    return {name: tensor.detach().clone() for name, tensor in beneath(trainer.model).items()}


def main() -> None:
    folder = Path(sys.argv[1])
    for kind in KINDS:
        trainer = trained(kind, per_device_train_batch_size=4)
        if trainer.accelerator.num_processes != 2:
            raise SystemExit("not two processes")
        save_file(state(trainer), folder / f"{kind}-{trainer.args.process_index}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
