"""Run by torchrun: trains a student of several teachers on both ranks, and saves each rank's student."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets, VotedTriplets
from hf_distill.teachers import Ensemble
from tests import tiny

HOW: dict[str, dict[str, Any]] = {
    "averaged": {"combine": "prob", "weights": [2.0, 1.0]},
    "weighed": {"combine": "losses", "weights": "label_ce"},
    "routed": {"routing": "domain"},
}


def trained(kind: str, *, gather: bool, **settings: Any) -> DistillationTrainer:
    """Three SGD steps of two micro-batches each, from the same start; votes are over the rows of all processes."""
    torch.manual_seed(0)
    members = {"a": tiny.model("single_label", seed=2), "b": tiny.model("single_label", layers=3, hidden=48, seed=3)}
    triplets = 0.5 * VotedTriplets(weights=[2.0, 1.0], gather=gather)
    trainer = DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        teacher=Ensemble(members, **HOW[kind]),
        objectives=SoftTargets(temperature=2.0) + 0.5 * Labels() + HiddenMSE(layer_map="final").on("b") + triplets,
        args=tiny.arguments(gradient_accumulation_steps=2, max_steps=3, learning_rate=0.05, **settings),
        train_dataset=[{**row, "domain": i % 2} for i, row in enumerate(tiny.rows("single_label", 48))],
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


def main() -> None:
    folder = Path(sys.argv[1])
    for kind in HOW:
        trainer = trained(kind, gather=True, per_device_train_batch_size=4)
        if trainer.accelerator.num_processes != 2:
            raise SystemExit("not two processes")
        state = {name: tensor.contiguous() for name, tensor in trainer.model.state_dict().items()}
        save_file(state, folder / f"{kind}-{trainer.args.process_index}.safetensors")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
