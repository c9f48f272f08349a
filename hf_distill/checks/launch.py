"""How the processes were launched, and what each of them holds."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from accelerate.utils import DistributedType
from torch import nn

from hf_distill.errors import DistillationError

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer


def before_training(trainer: BoundTrainer) -> None:
    """Refuses DataParallel, float16 without a GPU, and a launch that is not what it seems."""
    args, accelerator = trainer.args, trainer.accelerator
    if args.n_gpu > 1:
        raise DistillationError(
            f"{args.n_gpu} GPUs in one process would run DataParallel, which sees neither counts nor captures. "
            "Start one process a GPU (accelerate launch --multi_gpu, torchrun), or set CUDA_VISIBLE_DEVICES to one."
        )
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise DistillationError(
            "fp16 mixed precision needs a GPU (there is no loss scaler on a CPU); use bf16, or none."
        )
    if args.torch_compile and args.torch_compile_backend == "inductor" and accelerator.device.type == "cpu":
        _needs_compiler()
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != args.world_size:
        raise DistillationError(
            f"WORLD_SIZE is {launched}, but this process counts {args.world_size}: each would train alone. On "
            "a CPU pass --use_cpu (use_cpu=True) to torchrun."
        )
    if launched > 1 and accelerator.distributed_type == DistributedType.NO:
        raise DistillationError(
            f"{launched} processes were launched, but nothing would exchange their gradients. On a CPU pass --use_cpu "
            "(use_cpu=True)."
        )


def _needs_compiler() -> None:
    """torch finds out in the first step, with a page of its own inside."""
    names = [os.environ.get("CXX", "g++"), "clang++", "cl"]
    if not any(map(shutil.which, names)):
        raise DistillationError(
            f"torch_compile makes C++ of the models on a CPU, and there is no compiler here ({', '.join(names)}). "
            "Install one (apt-get install g++), name yours in the variable CXX, or leave torch_compile out."
        )


def loaded_in_shards(model: nn.Module) -> bool:
    """Whether each process holds a part of the model's parameters since it was loaded."""
    return bool(getattr(model, "is_distributed_loading_by_transformers", False))


def engine_is_active(trainer: BoundTrainer) -> None:
    """Asserts, with several processes, that gradients will be exchanged."""
    sharded = loaded_in_shards(trainer.model) or trainer.accelerator.distributed_type == DistributedType.FSDP
    if trainer.accelerator.num_processes > 1 and trainer.model_wrapped is trainer.distillation and not sharded:
        raise DistillationError(
            f"{trainer.accelerator.num_processes} processes, but the model is not wrapped for them "
            f"({trainer.accelerator.distributed_type}); their gradients would never be exchanged."
        )
