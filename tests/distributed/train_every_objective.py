"""Run by torchrun: trains every objective on each task given, saves each rank's weights and the logged losses."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from hf_distill import DistillationTrainer
from tests import tiny
from tests.test_invariance import trained


def refuse_ranks_that_part(trainer: DistillationTrainer) -> None:
    """Trains once more, after an evaluation: the engine must wrap the module again."""
    trainer.train()
    weights = torch.cat([parameter.detach().flatten() for parameter in trainer.distillation.parameters()])
    apart = (trainer.accelerator.gather(weights[None]) - weights).abs().max()
    if apart > 0:
        raise SystemExit(f"{apart} apart after a second train()")


def main() -> None:
    folder, tasks = Path(sys.argv[1]), sys.argv[2:]
    for task in tasks:
        trainer = trained(task, per_device_train_batch_size=2, gradient_accumulation_steps=2)
        if trainer.accelerator.num_processes != 2 or not isinstance(
            trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel
        ):
            raise SystemExit("not two processes under DDP")
        state = {
            name: parameter.detach().clone()
            for name, parameter in trainer.distillation.named_parameters(remove_duplicate=False)
        }
        save_file(state, folder / f"{task}-{trainer.args.process_index}.safetensors")
        evaluated = trainer.evaluate(tiny.rows(task, 21))["eval_loss"]
        losses = [str(row["loss"]) for row in trainer.state.log_history if "loss" in row]
        if task == tasks[0]:
            refuse_ranks_that_part(trainer)
        if trainer.is_world_process_zero():
            (folder / f"{task}.losses").write_text("\n".join(losses))
            (folder / f"{task}.eval_loss").write_text(str(evaluated))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
