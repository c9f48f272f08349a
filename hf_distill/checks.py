"""What a trainer refuses before the first step: set-ups that would train quietly wrong."""

from __future__ import annotations

import logging
import os
import shutil
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_distill.activations import Needs
from hf_distill.data.batching import fits_budget
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.loading import load_tokenizer
from hf_distill.objectives.pair import Pair

if TYPE_CHECKING:
    from hf_distill.trainer import DistillationTrainer

logger = logging.getLogger(__name__)


def before_training(trainer: DistillationTrainer) -> None:
    """Refuses DataParallel, losses that would be ignored, float16 without a GPU, and a launch that is not what it
    seems.
    """
    args, accelerator = trainer.args, trainer.accelerator
    if args.n_gpu > 1:
        raise DistillationError(
            f"{args.n_gpu} GPUs in one process would run DataParallel, which sees neither counts nor captures. "
            "Start one process a GPU (accelerate launch --multi_gpu, torchrun), or set CUDA_VISIBLE_DEVICES to one."
        )
    if trainer.compute_loss_func is not None:
        raise DistillationError(
            "compute_loss_func is given, and objectives make the loss here; write it as an Objective."
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


def fits_arguments(args: Any, needs: Needs) -> None:
    """Refuses training arguments that would falsify what the objectives read."""
    read = {signal.field for signal in needs.student}
    if args.use_liger_kernel and read & {"logits", "start_logits", "end_logits"}:
        raise DistillationError("use_liger_kernel hides the logits that the objectives read; leave it off.")
    embeddings = any(signal.field == "embeddings" or signal.layer == 0 for signal in needs.student)
    if args.neftune_noise_alpha is not None and embeddings:
        raise DistillationError(
            "neftune_noise_alpha adds noise to the student's embeddings, which an objective compares with the "
            "teacher's; leave one of them out."
        )


def fits_data(trainer: DistillationTrainer, needs_labels: bool) -> None:
    """Refuses a data set without the labels that the terms read, or with rows longer than a model's position table.

    A collator makes the labels of a language model out of the text, and any labels out of columns that are kept.
    """
    columns = getattr(trainer.train_dataset, "column_names", None)
    if columns is None:
        return
    task = trainer.distillation.pair.task
    collated = task.vocabulary_sized or not trainer.args.remove_unused_columns
    given = {"labels", *columns} if {"label", "label_ids"} & set(columns) else set(columns)
    missing = [name for name in task.label_names if name not in given]
    if needs_labels and missing and not collated:
        raise DataError(
            f"the training data have no column {missing[0]!r}, which the objectives read (columns: "
            f"{', '.join(columns)}). Add labels, or train on soft targets alone: objectives=SoftTargets()."
        )
    if trainer.args.length_column_name in columns and hasattr(trainer.train_dataset, "__len__"):
        longest = max(trainer.train_dataset[trainer.args.length_column_name][:], default=0)
        fits_positions(trainer.distillation.pair, longest)


def fits_token_budget(trainer: DistillationTrainer) -> None:
    """Refuses `tokens_per_batch` with what makes batches in another way, or where a row is known to be longer."""
    tokens, rows, column = trainer.tokens_per_batch, trainer.train_dataset, trainer.args.length_column_name
    if tokens is None:
        return
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise DistillationError(f"tokens_per_batch is {tokens!r}; it must be a whole number of 1 or more.")
    given = {
        "auto_find_batch_size": trainer.args.auto_find_batch_size,
        "split_batches": trainer.accelerator.split_batches,
        "dispatch_batches": trainer.accelerator.dispatch_batches,
    }
    for name in (name for name, value in given.items() if value):
        raise DistillationError(
            f"tokens_per_batch says what is in a batch, and {name} changes it; leave one of them out."
        )
    if rows is not None and not hasattr(rows, "__len__"):
        raise DataError(
            "tokens_per_batch needs the lengths of all rows, and those of a stream are not known; set "
            "per_device_train_batch_size, or store the text first (streaming: false)."
        )
    if hasattr(rows, "epoch_batches"):
        rows.epoch_batches(0, tokens)
    elif column in (getattr(rows, "column_names", None) or ()):
        fits_budget(max(rows[column][:], default=0), tokens)


def fits_positions(pair: Pair, length: int) -> None:
    """Refuses an input that is longer than the position table of either model."""
    for role, shape in (("student", pair.student), ("teacher", pair.teacher)):
        if shape is not None and shape.max_length is not None and length > shape.max_length:
            raise DataError(
                f"a row has {length} tokens, and the {role} ({shape.family}) reads {shape.max_length} at most. "
                f"Truncate the texts: tokenizer(…, truncation=True, max_length={shape.max_length})."
            )


def half_precision_student(student: nn.Module) -> None:
    """Warns of trained weights in half precision: most updates of a usual learning rate are lost in rounding."""
    halves = {p.dtype for p in student.parameters() if p.requires_grad and p.dtype in (torch.float16, torch.bfloat16)}
    if halves:
        logger.warning(
            "the student's trained weights are %s: small updates are lost in rounding. Load it with "
            "dtype=torch.float32 and use bf16=True for mixed precision.",
            " and ".join(sorted(map(str, halves))),
        )


def apart(student: nn.Module, teacher: object) -> None:
    """Refuses a teacher that shares parameters with the student: it would be trained with it."""
    ours = {id(parameter) for parameter in student.parameters()}
    theirs = teacher.named_parameters() if isinstance(teacher, nn.Module) else ()
    shared = [name for name, parameter in theirs if id(parameter) in ours]
    if shared:
        raise IncompatiblePair(
            f"teacher and student share the parameter {shared[0]!r} ({len(shared)} in all); the teacher would be "
            "trained too. Load it a second time, or use copy.deepcopy."
        )


def same_tokenizer(processing_class: Any, teacher: str) -> None:
    """Refuses a teacher (folder or Hub id) whose tokenizer gives other ids than the trainer's."""
    if not isinstance(processing_class, PreTrainedTokenizerBase):
        return
    theirs = load_tokenizer(teacher, role="teacher")
    equal_tokenizers(processing_class, theirs, teacher)


def equal_tokenizers(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str) -> None:
    """Compares vocabularies entry by entry.

    Raises: `IncompatiblePair` with the first entry that differs.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours == theirs:
        return
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    token = differing[0]
    raise IncompatiblePair(
        f"the tokenizers differ: {token!r} is {ours.get(token)} for the student and {theirs.get(token)} for the "
        f"teacher {name!r} ({len(differing)} such entries, {len(ours)} and {len(theirs)} in all). Both must read the "
        "same ids: take the teacher's tokenizer and a student built on its vocabulary."
    )


def optimizer_is_complete(optimizer: torch.optim.Optimizer, objectives: nn.Module) -> None:
    """Refuses an optimizer, made by the caller, that would leave what the objectives learn as it was at the start."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    lost = [name for name, parameter in objectives.named_parameters() if id(parameter) not in held]
    if lost:
        raise DistillationError(
            f"the optimizer that was passed lacks {lost[0]!r} ({len(lost)} such parameters), which an objective "
            "learns. Leave optimizers=… out, or add trainer.distillation.objectives.parameters() to it."
        )


def optimizer_is_current(optimizer: torch.optim.Optimizer, distillation: nn.Module) -> None:
    """Refuses an optimizer that would move parameters which the student had, in place of those that it has."""
    ours = {id(parameter) for parameter in distillation.parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gone = sum(id(parameter) not in ours for parameter in held)
    if gone:
        raise DistillationError(
            f"{gone} of the {len(held)} parameters that the optimizer holds are no longer the student's: modules or "
            "parameters of it were replaced since. Set trainer.optimizer to one of the parameters at hand, or to None "
            "to have it made."
        )


def loaded_in_shards(model: nn.Module) -> bool:
    """Whether each process holds a part of the model's parameters since it was loaded."""
    return bool(getattr(model, "is_distributed_loading_by_transformers", False))


def engine_is_active(trainer: DistillationTrainer) -> None:
    """Asserts, with several processes, that gradients will be exchanged."""
    sharded = loaded_in_shards(trainer.model) or trainer.accelerator.distributed_type == DistributedType.FSDP
    if trainer.accelerator.num_processes > 1 and trainer.model_wrapped is trainer.distillation and not sharded:
        raise DistillationError(
            f"{trainer.accelerator.num_processes} processes, but the model is not wrapped for them "
            f"({trainer.accelerator.distributed_type}); their gradients would never be exchanged."
        )
