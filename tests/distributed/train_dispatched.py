"""Run by torchrun on two ranks: a student learns from a cache, and the first rank reads the batches of both.
`SCRIPT FOLDER CODEC`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from hf_distill import DistillationTrainer, HiddenMSE, SoftTargets
from tests import tiny


def trainer(folder: Path, codec: str, batch_size: int) -> DistillationTrainer:
    """One whose teacher is in `folder`, which it writes."""
    made = DistillationTrainer(
        model=tiny.model("single_label", seed=4),
        teacher=tiny.model("single_label", layers=3, seed=3),
        objectives=SoftTargets() + HiddenMSE(layer_map="final"),
        args=tiny.arguments(
            output_dir=str(folder / "out"),
            per_device_train_batch_size=batch_size,
            max_steps=3,
            train_sampling_strategy="sequential",
            accelerator_config={"dispatch_batches": True},
        ),
        train_dataset=tiny.rows("single_label", 16, shortest=8, longest=8),  # rows of unlike length are not dealt out
        data_collator=tiny.Pad(),
    )
    made.cache_teacher(folder / "cache", codec=codec)
    return made


def main(folder: Path, codec: str) -> None:
    made = trainer(folder, codec, 2)
    made.train()
    if made.is_world_process_zero():
        made.model.save_pretrained(folder / "student")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
