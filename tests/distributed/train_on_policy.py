"""Run by torchrun: trains on texts that this rank's student writes, and saves the student and the last log."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_model

from tests.on_policy.test_training import LAST_WINDOWS, SPLIT, on_ranks


def main() -> None:
    folder = Path(sys.argv[1])
    for (name, task), number in product(SPLIT, LAST_WINDOWS):
        trainer = on_ranks(task, number, per_device_train_batch_size=2)
        if not isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel):
            raise SystemExit("not two processes under DDP")
        rank = trainer.args.process_index
        save_model(trainer.model, str(folder / f"{name}-{number}-{rank}.safetensors"))
        (folder / f"{name}-{number}-{rank}.json").write_text(json.dumps(trainer.state.log_history), encoding="utf-8")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
