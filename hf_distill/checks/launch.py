"""How the processes were launched, and what each of them holds."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from accelerate.utils import DistributedType
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

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
    _processes_are_together(trainer)
    _gets_what_it_asked_for(trainer)
    _saves_in_one_place(trainer)


def _processes_are_together(trainer: BoundTrainer) -> None:
    """Refuses processes that were launched together and do not know of each other."""
    args, accelerator = trainer.args, trainer.accelerator
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
    if launched > 1 and accelerator.num_processes != launched:
        raise DistillationError(
            f"WORLD_SIZE is {launched}, but accelerate counts {accelerator.num_processes} processes: make the "
            "TrainingArguments before anything else that makes an Accelerator or a process group."
        )
    if launched == 1 and _one_in_place_of_several():
        raise DistillationError(
            "`accelerate launch` was asked for several processes and started one, as it does on a CPU (--cpu, "
            "distributed_type: MULTI_CPU, or no GPU to be found). Launch them with `torchrun --nproc_per_node 2 … "
            "--use_cpu`, or with `accelerate launch --multi_gpu --num_processes 2 … --use_cpu`; for a single process "
            "leave --num_processes out, and MASTER_ADDR and MASTER_PORT unset."
        )


def _one_in_place_of_several() -> bool:
    """Whether `accelerate launch` prepared this process for others that it then did not start: it names a place to
    meet, and no size of the world."""
    told = ("ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT")
    alone = not (distributed.is_available() and distributed.is_initialized())
    return "WORLD_SIZE" not in os.environ and alone and all(name in os.environ for name in told)


def _gets_what_it_asked_for(trainer: BoundTrainer) -> None:
    """Refuses FSDP and DeepSpeed that were asked for and are not there: on a CPU the Trainer falls back to DDP."""
    kind = trainer.accelerator.distributed_type
    asked = {
        DistributedType.FSDP: bool(trainer.args.fsdp) or _is_set("ACCELERATE_USE_FSDP"),
        DistributedType.DEEPSPEED: bool(trainer.args.deepspeed) or _is_set("ACCELERATE_USE_DEEPSPEED"),
    }
    for wanted in (each for each, is_asked in asked.items() if is_asked and kind != each):
        several = trainer.accelerator.num_processes > 1
        instead = kind.value if several else "one process"
        raise DistillationError(
            f"{wanted.value} is asked for (fsdp, deepspeed, or the configuration of accelerate), and what is active "
            f"is {instead}. FSDP needs GPUs and one process for each; on CPUs load the student in shards, "
            "from_pretrained(…, distributed_config=DistributedConfig(fsdp_size=2)), or train with DDP."
        )


def _saves_in_one_place(trainer: BoundTrainer) -> None:
    """Refuses that each machine saves a student whose parts the first process alone gathers."""
    plugin = getattr(trainer.accelerator.state, "deepspeed_plugin", None)
    cut = trainer.accelerator.distributed_type == DistributedType.FSDP or loaded_in_shards(trainer.model)
    if trainer.args.save_on_each_node and (cut or getattr(plugin, "zero_stage", 0) == 3):
        raise DistillationError(
            "save_on_each_node with a student in shards: the first process alone gathers the whole of it, and the "
            "other machines would write none. Leave it out, and save to a place that all machines see."
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


def engine_of(trainer: BoundTrainer) -> str:
    """What holds weights and optimizer, and so writes and reads them: one whole copy of them in each process, parts
    since the student was loaded, FSDP in one of its forms, or DeepSpeed in one of its stages."""
    if loaded_in_shards(trainer.model):
        return "shards"
    state = trainer.accelerator.state
    if trainer.accelerator.distributed_type == DistributedType.FSDP:
        return f"FSDP, {str(state.fsdp_plugin.state_dict_type).rpartition('.')[-1]}"
    if trainer.accelerator.distributed_type == DistributedType.DEEPSPEED:
        return f"DeepSpeed ZeRO-{state.deepspeed_plugin.zero_stage}"
    return "whole"


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def engine_is_active(trainer: BoundTrainer) -> None:
    """Asserts, with several processes, that the model is wrapped by what exchanges gradients, and by what was asked
    for.

    Raises: `DistillationError` with the strategy and what wraps the model.
    """
    accelerator, engine = trainer.accelerator, trainer.model_wrapped
    if accelerator.num_processes == 1 or loaded_in_shards(trainer.model):
        return
    engine = getattr(engine, "_orig_mod", engine)  # torch.compile
    if _is_engine(engine, accelerator.distributed_type):
        return
    bare = engine is trainer.distillation
    raise DistillationError(
        f"{accelerator.num_processes} processes with {accelerator.distributed_type.value}, but the model is "
        f"{'not wrapped for them' if bare else f'wrapped by {type(engine).__name__}'}; their gradients would never be "
        "exchanged. Leave the wrapping to the trainer: give it the bare student, and prepare nothing beforehand."
    )


def _is_engine(engine: nn.Module, kind: DistributedType) -> bool:
    if kind == DistributedType.DEEPSPEED:
        return any(base.__name__ == "DeepSpeedEngine" for base in type(engine).__mro__)
    if kind == DistributedType.FSDP:
        bases = {base.__name__ for base in type(engine).__mro__}
        return bool(bases & {"FSDPModule", "FullyShardedDataParallel"})
    return isinstance(engine, DistributedDataParallel)
