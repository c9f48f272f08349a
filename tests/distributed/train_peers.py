"""Run by torchrun: trains a student with its peers on both ranks, and saves each rank's weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hf_distill import DeepMutualLearning, DistillationTrainer, KnowledgeFlow, Labels, OKDDip
from hf_distill.objectives import Terms
from hf_distill.teachers import Peers, Teacher
from tests import tiny

KINDS = ("mutual", "leader", "flow")


def _terms(kind: str) -> Terms:
    of_kind = {"mutual": DeepMutualLearning(temperature=2.0), "leader": 0.7 * OKDDip(), "flow": KnowledgeFlow()}
    return Labels() + of_kind[kind]


def _teacher(kind: str) -> Teacher | torch.nn.Module:
    if kind == "flow":
        return tiny.model("single_label", hidden=48, seed=9)
    return Peers([tiny.model("single_label", seed=seed) for seed in (7, 8)], learning_rate=0.02)


def trained(kind: str, **settings: Any) -> DistillationTrainer:
    """Three SGD steps of two micro-batches each, from the same start."""
    torch.manual_seed(0)
    trainer = DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        teacher=_teacher(kind),
        objectives=_terms(kind),
        args=tiny.arguments(gradient_accumulation_steps=2, max_steps=3, learning_rate=0.05, **settings),
        train_dataset=tiny.rows("single_label", 48),
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


def state(trainer: DistillationTrainer) -> dict[str, torch.Tensor]:
    """Weights of the student, of its peers, and of what the objectives learn."""
    student = {f"student.{name}": each for name, each in trainer.model.named_parameters()}
    beside = trainer.distillation.beside.state_dict()
    return {name: tensor.detach().clone() for name, tensor in {**student, **beside}.items()}


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
