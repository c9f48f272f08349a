"""Run by torchrun: trains under DeepSpeed, ZeRO-2 or ZeRO-3 with every parameter cut up, and saves the student."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch

from hf_distill import DistillationTrainer
from hf_distill.shards import partitioned
from tests import tiny
from tests.distributed.train_in_shards import BEST, OF_TWO, go_on, loaded, made_of

KINDS = ("zero2", "zero3", "zero3_teacher")
"""The last one with a teacher that is cut up, too, in an engine of its own."""


def configuration(kind: str) -> dict[str, Any]:
    """No word of gradient_clipping, which DeepSpeed takes for 1."""
    zero = {"stage": 2} if kind == "zero2" else {"stage": 3, "stage3_param_persistence_threshold": 0}
    if kind != "zero2":
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    sizes = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
    return {**dict.fromkeys(sizes, "auto"), "zero_optimization": zero, "zero_allow_untested_optimizer": True}


def trainer_of(folder: Path, kind: str, **settings: Any) -> DistillationTrainer:
    whole = {role: loaded(folder / "from" / role, 1) for role in ("student", "teacher")}
    args = tiny.arguments(deepspeed=configuration(kind), **{**OF_TWO, "max_grad_norm": 0.5, **settings})
    if kind == "zero3_teacher":  # is loaded while DeepSpeed is at hand
        importlib.import_module("deepspeed").init_distributed("gloo")
        whole["teacher"] = loaded(folder / "from" / "teacher", 1)
        if not partitioned(whole["teacher"]):
            raise SystemExit("the teacher is whole")
    return made_of(whole, args)


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    saving = {"save_strategy": "steps", "save_steps": 2, "output_dir": str(folder / f"{kind}-run")}
    trainer = trainer_of(folder, kind, **saving)
    trainer.train()
    trainer.save_model(str(folder / kind))
    evaluated = trainer.evaluate()["eval_loss"]
    if trainer.is_world_process_zero():
        (folder / f"{kind}.eval_loss").write_text(str(evaluated))
    go_on(trainer_of(folder, kind, **saving), folder / f"{kind}-run", f"{kind}-resumed")
    best = trainer_of(folder, kind, **{**saving, **BEST, "output_dir": str(folder / f"{kind}-best")})
    best.train()
    best.save_model(str(folder / f"{kind}-best"))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
