"""Run by torchrun: trains on two ranks; with a step as the second argument, rank 1 is asked to stop in it. With the
word `resume` it goes on, and with `alone` it says what a single process is told."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from transformers import TrainerCallback

from hf_distill import BrokenCheckpoint
from tests.test_exact_resume import trainer_of


class Ask(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    folder, how = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    arguments = {"save_strategy": "no", "enable_jit_checkpoint": True, "per_device_train_batch_size": 2}
    trainer = trainer_of(folder, arguments=arguments)
    if how.isdigit():
        trainer.add_callback(Ask(int(how)))
    try:
        trainer.train(resume_from_checkpoint=how in ("resume", "alone"))
    except BrokenCheckpoint as error:
        sys.stdout.write(f"refused: {error}\n")
        return
    except SystemExit as error:
        sys.stdout.write(f"rank {trainer.args.process_index}: {error.code}: {error}\n")
        torch.distributed.destroy_process_group()
        return
    save_model(trainer.distillation, str(folder / f"end-{trainer.args.process_index}.safetensors"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
