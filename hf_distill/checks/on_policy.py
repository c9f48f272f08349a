"""What texts that are written while the student trains are used with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hf_distill.checks.launch import loaded_in_shards
from hf_distill.errors import CacheMismatch, DataError, DistillationError, IncompatiblePair
from hf_distill.objectives.hypotheses import SCORES
from hf_distill.objectives.row_wise import RowWise
from hf_distill.suggestions import did_you_mean
from hf_distill.teachers import Cached, Ensemble, Frozen, Teacher
from hf_distill.teachers.generation import WRITING

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer
    from hf_distill.training.policy import OnPolicy

logger = logging.getLogger(__name__)

_SHOWN = 20
"""Special tokens that a message names at most."""


def fits_on_policy(trainer: BoundTrainer, settings: OnPolicy) -> None:
    """Refuses students that do not write, teachers that cannot be asked about new texts, and terms that know the
    texts of the data alone.
    """
    student, task = type(trainer.model).__name__, trainer.distillation.pair.task
    if task.name not in WRITING or trainer.model.generation_config is None:
        raise IncompatiblePair(
            f"on_policy has the student write, and it is a {student}, whose task is {task.name}; those that write are "
            f"{' and '.join(WRITING)}. Leave on_policy out, or take such a student."
        )
    _is_whole(trainer)
    _answers_anew(trainer.teacher)
    if settings.teacher_share and not isinstance(trainer.teacher, Frozen):
        raise IncompatiblePair(
            f"on_policy: teacher_share is {settings.teacher_share:g}, and the teacher, {_kind(trainer.teacher)}, "
            "does not write; one model that stays as it is does. Set teacher_share to 0."
        )
    if trainer.distillation.pair.across is not None:
        raise IncompatiblePair(
            "on_policy has texts written while the student trains, and the teacher reads by a tokenizer of its own: "
            "texts are aligned between the two before training. Leave on_policy out, or take a teacher of the "
            "student's tokenizer."
        )
    named = list(zip(trainer.distillation.objectives, trainer.distillation.terms(), strict=True))
    if not any(objective.needs_teacher for _, objective in named):
        raise DistillationError(
            "on_policy: no term compares the student with a teacher, and its own texts alone teach it nothing; add "
            "SoftTargets, or leave on_policy out."
        )
    for name, objective in named:
        if SCORES in objective.columns:
            raise IncompatiblePair(
                f"objective {name!r} weighs texts that the teacher wrote before, and on_policy puts others in their "
                "place; leave one of them out."
            )
        if settings.student_share and isinstance(objective, RowWise) and objective.reads_labels:
            logger.warning(
                "objective %r learns labels, and in the share %g of the steps (on_policy) these are words that the "
                "student drew itself, which teach it nothing; leave the term out",
                name,
                settings.student_share,
            )


def _kind(teacher: Teacher | None) -> str:
    return "of which there is none" if teacher is None else f"a {type(teacher).__name__}"


def _is_whole(trainer: BoundTrainer) -> None:
    """Refuses a student of which no process has all."""
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled or loaded_in_shards(trainer.model):
        raise DistillationError(
            "on_policy: the student writes outside of the engine, and FSDP, DeepSpeed and a student loaded in shards "
            "hold its parameters in parts. Train in one process or with DDP."
        )


def _answers_anew(teacher: Teacher | None) -> None:
    members = teacher.members if isinstance(teacher, Ensemble) else {"": teacher}
    cached = [name for name, member in members.items() if isinstance(member, Cached)]
    if cached:
        who = f"the teacher {cached[0]!r}" if cached[0] else "the teacher"
        raise CacheMismatch(
            f"on_policy: {who} is read from a cache, which knows the texts of the data alone, not those that the "
            "student writes. Give the teacher itself, or leave on_policy out."
        )


def texts_end(ends: Sequence[int], padding: int | None) -> None:
    """Refuses a student of which nothing tells how a text ends and what pads it, and warns where nothing ends it."""
    if not ends and padding is None:
        raise DistillationError(
            "on_policy: neither the student's generation config nor the tokenizer tells which token ends a text or "
            "pads one. Set eos_token_id in model.generation_config, or give processing_class."
        )
    if not ends:
        logger.warning(
            "on_policy: no token ends a text, so every text has max_new_tokens tokens; set eos_token_id in the "
            "student's generation_config"
        )


def tokens_of(processing_class: Any, texts: Sequence[str]) -> list[int]:
    """The ids of tokens that are named by their texts.

    Raises: `DistillationError` for one that is none, and where there is no tokenizer.
    """
    if not texts:
        return []
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    if not hasattr(tokenizer, "get_vocab"):
        raise DistillationError("on_policy: end_tokens are texts of tokens, and no tokenizer is given; give one.")
    vocabulary = tokenizer.get_vocab()
    unknown = [text for text in texts if text not in vocabulary]
    if unknown:
        special = list(getattr(tokenizer, "all_special_tokens", ()))[:_SHOWN]
        raise DistillationError(
            f"on_policy: end_tokens has {unknown[0]!r}, which is no token of the tokenizer "
            f"({type(tokenizer).__name__}, {len(vocabulary)} tokens{did_you_mean(unknown[0], vocabulary, '; ')}). All "
            "are in tokenizer.get_vocab(), and in the file tokenizer.json; the special ones among them are "
            f"{', '.join(map(repr, special)) or 'none'}."
        )
    return [int(vocabulary[text]) for text in texts]


def fits_texts(trainer: BoundTrainer, prompt: int, new_tokens: int) -> None:
    """Refuses prompts that leave no room for `new_tokens`, which stand behind them or, of an encoder-decoder, in a
    sequence of their own. Also of models that could go on without an end no more is asked than they were made for.

    Raises: `DataError`.
    """
    pair = trainer.distillation.pair
    longest = prompt + new_tokens if pair.task.name == "causal_lm" else max(prompt, new_tokens + 1)
    teachers = () if trainer.teacher is None else trainer.teacher.models
    for role, model in (("student", trainer.model), *(("teacher", each) for each in teachers)):
        config: Any = model.config
        reads = getattr(config, "max_position_embeddings", None)
        if isinstance(reads, int) and longest > reads:
            raise DataError(
                f"on_policy: a prompt has {prompt} tokens and max_new_tokens is {new_tokens}, and the {role} "
                f"({config.model_type}) reads {reads} at most. Cut the prompts, or set max_new_tokens lower."
            )
