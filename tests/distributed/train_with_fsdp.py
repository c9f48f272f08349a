"""Run by torchrun: trains under accelerate's FSDP2, which accelerate itself does on GPUs alone; saves the student.

Accelerate reads FSDP out of its state, where a CPU never gets it. Here it is put there, so that what accelerate and
the trainer do with it (wrapping the `Distillation`, shards of its optimizer, checkpoints) runs as it would on GPUs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from hf_distill import DistillationTrainer
from tests import tiny
from tests.distributed.train_in_shards import BEST, OF_TWO, go_on, loaded, made_of

FSDP = {
    "version": 2,
    "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
    "transformer_layer_cls_to_wrap": "BertLayer",
    "reshard_after_forward": True,
    "cpu_ram_efficient_loading": False,
    "state_dict_type": "SHARDED_STATE_DICT",
}


def allow_on_cpus() -> None:
    """Has every state of accelerate with an FSDP plugin be one of FSDP."""
    made = AcceleratorState.__init__

    def patched(self: Any, *args: Any, **settings: Any) -> None:
        made(self, *args, **settings)
        plugin = settings.get("fsdp_plugin") or self.__dict__.get("fsdp_plugin")
        if plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, plugin

    AcceleratorState.__init__ = patched


def trainer_of(folder: Path, **settings: Any) -> DistillationTrainer:
    arguments = {"optim": "adamw_torch_fused", "learning_rate": 1e-3, "max_grad_norm": 1.0, "adam_epsilon": 1e-3}
    fsdp = {**FSDP, "state_dict_type": settings.pop("state_dict_type", FSDP["state_dict_type"])}
    args = tiny.arguments(fsdp=True, fsdp_config=fsdp, **{**arguments, **OF_TWO, **settings})
    return made_of({role: loaded(folder / "from" / role, 1) for role in ("student", "teacher")}, args)


def main() -> None:
    folder = Path(sys.argv[1])
    allow_on_cpus()
    saving = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(folder / "run")}
    trainer = trainer_of(folder, **saving)
    trainer.train()
    trainer.save_model(str(folder / "fsdp"))
    evaluated = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        (folder / "fsdp.eval_loss").write_text(str(evaluated))
    go_on(trainer_of(folder, **saving), folder / "run", "resumed")
    whole = {**saving, "output_dir": str(folder / "whole"), "state_dict_type": "FULL_STATE_DICT"}
    trainer_of(folder, **whole).train()
    go_on(trainer_of(folder, **whole), folder / "whole", "whole-resumed")
    best = trainer_of(folder, **{**saving, **BEST, "output_dir": str(folder / "best")})
    best.train()
    best.save_model(str(folder / "best"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
