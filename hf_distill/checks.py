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
from hf_distill.anatomy import Anatomy
from hf_distill.data.batching import fits_budget, lengths_of
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.loading import load_tokenizer
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.terms import Terms
from hf_distill.passes import Kind, same_table
from hf_distill.students.quantized import FAST, has_grids, has_points
from hf_distill.teachers import Teacher

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


def fits_batches(trainer: DistillationTrainer) -> None:
    """Refuses batches with too few examples for an objective that relates them to each other, and warns of few."""
    if trainer.train_dataset is None:
        return
    processes, distillation = trainer.accelerator.num_processes, trainer.distillation
    named = list(zip(distillation.objectives, distillation.terms(), strict=True))
    for name, objective in named:
        exchanged = processes > 1 and (objective.gather or objective.reads_rows)
        if exchanged and (trainer.tokens_per_batch or not trainer.accelerator.even_batches):
            other = "tokens_per_batch" if trainer.tokens_per_batch else "even_batches=False"
            raise DistillationError(
                f"objective {name!r} exchanges the examples of {processes} processes, each of which must have as "
                f"many, and {other} deals out batches of unequal sizes; leave {other} out"
                f"{', or set gather=False' if objective.gather else ''}."
            )
    wanted = max(max(objective.smallest_batch, objective.advised_batch) for _, objective in named)
    found, setting = _examples(trainer) if wanted > 1 else (wanted, "")
    for name, objective in named:
        related = found * (processes if objective.gather else 1)
        together = f"objective {name!r} relates the examples of a batch to each other; {setting} makes it {related}"
        if related < objective.smallest_batch:
            raise DistillationError(
                f"{together}; it needs {objective.smallest_batch}. Raise {setting}: accumulating gradients makes no "
                "batch larger."
            )
        if related < objective.advised_batch:
            logger.warning("%s; below %d it says little. Raise it.", together, objective.advised_batch)


def _examples(trainer: DistillationTrainer) -> tuple[int, str]:
    """The examples of a full batch of a process, at least, and the setting that says so."""
    tokens, rows = trainer.tokens_per_batch, trainer.train_dataset
    if tokens is None:
        split = trainer.accelerator.num_processes if trainer.accelerator.split_batches else 1
        return trainer.args.per_device_train_batch_size // split, "per_device_train_batch_size"
    packed = hasattr(rows, "epoch_batches")
    lengths = rows.epoch_batches(0, tokens).lengths if packed else lengths_of(rows, trainer.args.length_column_name)
    return tokens // int(lengths.max(initial=1)), "tokens_per_batch"


def fits_steps(trainer: DistillationTrainer, steps: int) -> None:
    """Refuses a training that is too short for what an objective does on the way."""
    distillation = trainer.distillation
    for name, objective in zip(distillation.objectives, distillation.terms(), strict=True):
        if steps < objective.smallest_steps:
            raise DistillationError(
                f"objective {name!r} goes through {objective.smallest_steps} parts of the training, which has {steps} "
                "steps, so that some would be empty. Raise num_train_epochs or max_steps, or ask it for fewer."
            )


def fits_passes(trainer: DistillationTrainer, sharded: bool) -> None:
    """Refuses passes over embeddings that an engine holds in shards, models that do not share the space in which an
    objective compares or moves them, and partners that a batch has no room for.
    """
    distillation = trainer.distillation
    for name, objective in zip(distillation.objectives, distillation.terms(), strict=True):
        embeds = any(isinstance(s.source, Kind) and s.source.embeds for s in objective.needs().student)
        if sharded and embeds:
            raise DistillationError(
                f"objective {name!r} changes or differentiates the student's token embeddings, which FSDP, DeepSpeed "
                "and a student loaded in shards hold in parts. Train in one process or with DDP."
            )
        if objective.feeds and (sharded or _recomputes(trainer)):
            what = "its parameters are in shards" if sharded else "checkpointing would run them once more without that"
            raise DistillationError(
                f"objective {name!r} changes what the student's layers give in its main pass, and {what}. Train in "
                "one process or with DDP, and without checkpointing of activations."
            )
        if objective.batching is not None and trainer.tokens_per_batch is not None:
            raise DistillationError(
                f"objective {name!r} has each row bring a partner, and tokens_per_batch would not count the partner's "
                "cells; set per_device_train_batch_size instead."
            )
        teacher = trainer.teacher if objective.same_embeddings else None
        if teacher is not None and not same_table(Anatomy.of(trainer.model), teacher.anatomy):
            raise IncompatiblePair(
                f"objective {name!r} compares or moves both models in the space of their token embeddings, and the "
                "student looks tokens up in another table than its teacher. Take a student with the teacher's "
                "embeddings (students.from_layers), or a setting that does not need them (space='token')."
            )


def _recomputes(trainer: DistillationTrainer) -> bool:
    """Whether layers run once more in the backward pass, by the arguments or because the model itself was told; the
    argument has another name from transformers 5.24 on.
    """
    asked = getattr(trainer.args, "activation_checkpointing", None) or trainer.args.gradient_checkpointing
    return bool(asked or getattr(trainer.model, "is_gradient_checkpointing", False))


def fits_grids(trainer: DistillationTrainer) -> None:
    """Refuses to shard a student whose weights lie on grids, and warns of learned points that move too fast."""
    if not has_grids(trainer.model):
        return
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or loaded_in_shards(trainer.model):
        raise DistillationError(
            "the student's weights lie on grids, whose scales are those of whole tensors, and FSDP and DeepSpeed cut "
            "these up; train a quantized student in one process, or with one process a GPU (DDP)."
        )
    if has_points(trainer.model) and trainer.args.learning_rate > FAST:
        logger.warning(
            "the points of the student's grids are learned at a rate of %g: above %g they overtake each other. The "
            "authors take 1e-5 (SGD with Nesterov momentum 0.9).",
            trainer.args.learning_rate,
            FAST,
        )


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


def has_whole_student(teacher: Teacher, sharded: bool) -> None:
    """Refuses a teacher that is made of the student, or trains with it, where each process holds a part of that."""
    if teacher.reads_student and sharded:
        raise DistillationError(
            f"the teacher, {type(teacher).__name__}, is made of the student's parameters, and no process has them "
            "whole (FSDP, DeepSpeed, or a student loaded in shards). Train in one process or with DDP, or take "
            "another teacher."
        )
    if teacher.trains and sharded:
        raise DistillationError(
            f"{type(teacher).__name__} train with the student, and FSDP, DeepSpeed and a student loaded in shards "
            "hold what trains in parts. Train in one process or with DDP."
        )


def has_peers(terms: Terms, teacher: Teacher | None) -> None:
    """Refuses terms between models that train together where no other model trains."""
    lonely = [term.name for term in terms if term.objective.among_peers]
    if lonely and not (teacher is not None and teacher.trains):
        found = "there is no teacher" if teacher is None else f"the teacher is a {type(teacher).__name__}"
        raise IncompatiblePair(
            f"objective {lonely[0]!r} is between models that train together, and {found}; give teacher=Peers([…]), in "
            "a recipe `teacher: {peers: {count: 2}}`."
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
            "or a peer learns. Leave optimizers=… out, or add trainer.distillation.beside.parameters() to it."
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
