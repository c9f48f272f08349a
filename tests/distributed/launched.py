"""Run by every kind of launcher: trains two steps, and tells of the processes, the strategy and the weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from hf_distill import DistillationTrainer, Labels, SoftTargets
from tests import tiny


def trained(**settings: Any) -> dict[str, Any]:
    """Two steps of eight rows, whatever the number of processes, and an evaluation; what there is to tell of them."""
    trainer = DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        objectives=SoftTargets() + Labels(),
        args=tiny.arguments(**{"max_steps": 2, **settings}),
        train_dataset=tiny.rows("single_label", 21),
        eval_dataset=tiny.rows("single_label", 21),
        data_collator=tiny.Pad(),
        compute_metrics=lambda prediction: {"rows": len(prediction.label_ids)},
    )
    trainer.train()
    evaluated = trainer.evaluate()
    return {
        "rank": trainer.args.process_index,
        "world": trainer.args.world_size,
        "rows": evaluated["eval_rows"],
        "eval_loss": evaluated["eval_loss"],
        "weights": sum(each.detach().double().abs().sum().item() for each in trainer.model.parameters()),
    }


def main() -> None:
    told = trained(**json.loads(sys.argv[2]))
    Path(sys.argv[1], f"{told.pop('rank')}.json").write_text(json.dumps(told))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
