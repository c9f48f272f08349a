"""Run by torchrun: trains objectives over further passes on this rank's rows, and saves the student it ends with."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_model

from tests.objectives.test_further_passes import EXACT, alike, trained


def main() -> None:
    folder = Path(sys.argv[1])
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    runs = [(name, partial(trained, name, arguments=settings)) for name in EXACT]
    for name, run in (*runs, ("ddgsd", partial(alike, per_device_train_batch_size=2))):
        trainer = run()
        if not isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel):
            raise SystemExit("not two processes under DDP")
        save_model(trainer.model, str(folder / f"{name}-{trainer.args.process_index}.safetensors"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
