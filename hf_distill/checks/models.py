"""What a student and its teacher are, whatever is trained."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from hf_distill.checks.launch import loaded_in_shards
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.loading import load_tokenizer
from hf_distill.objectives.across import Across
from hf_distill.students.quantized import FAST, has_grids, has_points
from hf_distill.teachers import Teacher

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer

logger = logging.getLogger(__name__)


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
    if teacher.alongside is not None and sharded:
        raise DistillationError(
            f"{type(teacher).__name__} train with the student, and FSDP, DeepSpeed and a student loaded in shards "
            "hold what trains in parts. Train in one process or with DDP."
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


def half_precision_teacher(teacher: nn.Module, where: torch.device) -> None:
    """Warns of a teacher in half precision on a CPU that computes it by detours, as one in a file of float16 is since
    transformers 5: a layer took six to eight times as long as in float32 (AMD EPYC, AVX2, torch 2.13)."""
    if where.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX2":
        return
    halves = {p.dtype for p in teacher.parameters() if p.dtype in (torch.float16, torch.bfloat16)}
    if halves:
        logger.warning(
            "the teacher is in %s, for which this CPU has no instructions: it takes several times as long as in "
            "float32. Load it with dtype=torch.float32 (in recipes teacher.dtype).",
            " and ".join(sorted(map(str, halves))),
        )


def fits_grids(trainer: BoundTrainer) -> None:
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


def same_tokenizer(processing_class: Any, teacher: str) -> None:
    """Refuses a teacher (folder or Hub id) whose tokenizer gives other ids than the trainer's."""
    if not isinstance(processing_class, PreTrainedTokenizerBase):
        return
    theirs = load_tokenizer(teacher, role="teacher")
    equal_tokenizers(processing_class, theirs, teacher)


OWN_TOKENIZER = (
    "Or have a causal teacher read by its own: teachers.Frozen(model, tokenizer=…), in a recipe `teacher: {tokenizer: "
    "own}`."
)
"""What else there is to do about two tokenizers where next words are compared."""

OF_ENCODERS = (
    "A sentence encoder does not learn from one of another tokenizer: for a student of several languages take a "
    "teacher that reads them all."
)
"""What there is to do about them where vectors of texts are."""


def equal_tokenizers(
    student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase, name: str, remedy: str = OWN_TOKENIZER
) -> None:
    """Compares vocabularies entry by entry; `remedy` is the end of the message.

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
        f"same ids: take the teacher's tokenizer and a student built on its vocabulary. {remedy}"
    )


def two_tokenizers(student: Any, teacher: PreTrainedTokenizerBase) -> Across:
    """Which entries of the student's tokenizer answer to which of the teacher's own.

    Raises: `IncompatiblePair` without a student's tokenizer.
    """
    if not isinstance(student, PreTrainedTokenizerBase):
        raise IncompatiblePair(
            f"the teacher reads by its own tokenizer ({type(teacher).__name__}), and the student's is not known; pass "
            "processing_class=tokenizer to the trainer."
        )
    return Across.of(student, teacher)
