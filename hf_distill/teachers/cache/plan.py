"""Which signals of a teacher are written down, and which are made out of them on reading."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_distill.activations import LAYERED, MAIN, PLAIN, Signal
from hf_distill.anatomy import WIDE_LOGITS, Anatomy
from hf_distill.errors import CacheMismatch, DistillationError, IncompatiblePair
from hf_distill.objectives.base import Objective
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.row_wise import RowWise
from hf_distill.tasks import Seq2SeqLM, task_of
from hf_distill.teachers.cache import codecs
from hf_distill.teachers.cache.codecs import Codec, TopK
from hf_distill.teachers.cache.keys import TARGET_IDS

LOGITS = Signal("logits")

TOKENS = "input_ids"

HEAD_STATE = Signal("head_state")
"""What the head reads in the axes of its codec; it is shown, and never written."""

DECODER = "decoder"

SPANS = ("start_logits", "end_logits")
"""One number a token."""


def final_of(anatomy: Anatomy) -> Signal:
    """What the head reads: the last state, in a model of two stacks the decoder's."""
    return Signal("final", None, DECODER if DECODER in anatomy.shape.stacks else "")


def check_tokens(model: PreTrainedModel) -> None:
    """Refuses a teacher that hears: rows are found by their tokens.

    Raises: `IncompatiblePair` with the remedy.
    """
    if model.main_input_name != TOKENS:
        raise IncompatiblePair(
            f"the teacher, a {type(model).__name__}, reads {model.main_input_name}, and rows are found in a teacher's "
            f"cache by their token ids ({TOKENS}). Train with the teacher itself (leave the cache out)."
        )


def stored_signals(anatomy: Anatomy, signals: Iterable[Signal], codec: Codec | None) -> frozenset[Signal]:
    """What must be written down so that `signals` can be given: a vocabulary's logits by the state its head reads.

    Raises: `IncompatiblePair` for a signal that no cache holds, and for a model with a decoder beside an encoder that
    is not made to write texts.
    """
    _check_targets(anatomy)
    found = set()
    for signal in signals:
        if signal.field in ("scores", "head_state") or signal.stack not in ("", DECODER) or signal.source != MAIN:
            raise IncompatiblePair(
                f"{signal}: a teacher's cache holds logits, states, queries, keys and values of models with one stack "
                "of blocks, or of a decoder beside an encoder, of the batch as it is. Train with the teacher itself, "
                "or without the objective that reads it."
            )
        found.add(final_of(anatomy) if signal == LOGITS and by_head(anatomy, codec) else signal)
    return frozenset(found)


def _check_targets(anatomy: Anatomy) -> None:
    """What a decoder beside an encoder shows depends on a text of its own, which a row must have."""
    has_decoder = len(anatomy.shape.stacks) > 1 or TARGET_IDS in anatomy.accepts
    if has_decoder and task_of(anatomy.base).name != Seq2SeqLM.name:
        raise IncompatiblePair(
            f"the teacher, a {type(anatomy.base).__name__}, has a decoder beside its encoder, and its rows have no "
            "target text by which a teacher's cache could find them. Train with the teacher itself."
        )


def by_head(anatomy: Anatomy, codec: Codec | None) -> bool:
    """Whether logits are made out of the last hidden state: at equal bytes that loses a hundredth of what the largest
    logits lose, and nothing in float32. Those of a vocabulary are; many labels are none, and a head that picks or
    averages tokens cannot be asked for them later."""
    wide = anatomy.shape.num_logits > WIDE_LOGITS and anatomy.knows_head and not isinstance(codec, TopK)
    return wide and task_of(anatomy.base).vocabulary_sized


def check_read(signals: Iterable[Signal]) -> None:
    """Raises: `DistillationError` where nothing of a teacher is read, so that there is nothing to be written down."""
    if not {*signals}:
        raise DistillationError(
            "the objectives read nothing of the teacher, its cache would be empty; add one that does (SoftTargets), "
            "or leave the cache out."
        )


def check_readers(codec: Codec | None, pair: Pair, objectives: Iterable[Objective]) -> None:
    """Refuses, before a teacher runs, what could not be read as these objectives, bound to `pair`, read it.

    Raises: `IncompatiblePair` for one that does not take the largest logits alone, or not at its temperature.
    """
    if isinstance(codec, TopK) and pair.teacher is not None and pair.teacher.num_logits > WIDE_LOGITS:
        if pair.members is not None:
            raise IncompatiblePair(
                "the largest logits alone (codec top_k) of several teachers cannot be averaged, as each has others. "
                "Cache the last hidden states."
            )
        pair.check_same_columns()
        for objective in objectives:
            if isinstance(objective, RowWise) and objective.needs_teacher:
                objective.check_top_logits(tuple(codec.temperatures))


def codec_of(signal: str, width: int, codec: Codec | None) -> Codec:
    """A new codec for one signal: the one that was asked for, or float16. Narrow logits are kept in float32, and
    states beside the largest logits in float16.

    Raises: `DistillationError` for a width that it cannot write down.
    """
    logits = signal.endswith("logits")
    if logits and width <= WIDE_LOGITS:
        return codecs.make("float32", {})
    if codec is None or (isinstance(codec, TopK) and not logits):
        return codecs.make("float16", {})
    found = codecs.make(codec.name, codec.settings())
    found.check(width)
    return found


def signal_named(name: str) -> Signal:
    """The signal that `str(signal)` names, of a model with one stack, or of its decoder.

    Raises: `CacheMismatch` for a name that no signal has.
    """
    stack = DECODER if name.startswith(f"{DECODER}.") else ""
    field, bracket, layer = name.removeprefix(f"{stack}.").partition("[")
    number = layer.removesuffix("]")
    if bracket and field in LAYERED and number.isdecimal() and len(number) < 6:
        found = Signal(field, int(number), stack)
    else:
        found = Signal(field, None, stack)
    if str(found) != name or field == HEAD_STATE.field or (found.layer is None and field not in PLAIN):
        raise CacheMismatch(f"there is no signal {name!r} of a teacher.")
    return found


def check_holds(held: Iterable[Signal], signals: Iterable[Signal], where: object) -> None:
    """Raises: `CacheMismatch` for signals that a cache does not hold."""
    has = {*held}
    missing = sorted({*signals} - has, key=str)
    if missing:
        raise CacheMismatch(
            f"{where} holds {', '.join(sorted(map(str, has)))} of the teacher, and {', '.join(map(str, missing))} is "
            "read as well. Write a cache for these objectives into another folder, or leave out what reads it."
        )


def nested(tensors: Mapping[Signal, Any], stack: str = "") -> dict[str, Any]:
    """Fields of one stack for `Activations`, those that are kept by layer as a mapping."""
    fields: dict[str, Any] = {}
    for signal, tensor in tensors.items():
        if signal.stack != stack:
            continue
        if signal.field in LAYERED:
            fields.setdefault(signal.field, {})[signal.layer] = tensor
        else:
            fields[signal.field] = tensor
    return fields
