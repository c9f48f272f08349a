"""Run by two ranks: epochs whose last round is short, uninterrupted and gone on with from within each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import distributed

from hf_distill import DistillationTrainer, Labels, SoftTargets
from tests import tiny

STEPS = 3
"""Of each of two epochs: ten rows in rounds of four, of which the last has two."""


def trained(folder: Path, **arguments: Any) -> DistillationTrainer:
    resumed = arguments.pop("resumed", None)
    settings = {"max_steps": -1, "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, **arguments}
    trainer = DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        teacher=tiny.model("single_label", seed=2),
        objectives=SoftTargets() + Labels(),
        args=tiny.arguments(output_dir=str(folder), train_sampling_strategy="random", **settings),
        train_dataset=tiny.rows("single_label", 10),
        data_collator=tiny.Pad(),
    )
    trainer.train(resume_from_checkpoint=resumed)
    return trainer


def main() -> None:
    folder = Path(sys.argv[1])
    whole = trained(folder / "whole", per_device_train_batch_size=2)
    told = []
    for step in (1, 2, STEPS + 1, STEPS + 2):
        again = trained(
            folder / "again",
            per_device_train_batch_size=2,
            save_strategy="no",
            resumed=str(folder / "whole" / f"checkpoint-{step}"),
        )
        told.append(f"{step} {tiny.distance(again.model, whole.model)}")
    if whole.args.process_index == 0:
        whole.save_model(str(folder / "student"))
        (folder / "told").write_text("\n".join(told))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
