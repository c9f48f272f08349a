"""How each signal of a model is read."""

from __future__ import annotations

from torch import nn

from hf_distill.activations import LAYERED, PLAIN, Signal
from hf_distill.anatomy import Anatomy, StackShape, class_ending
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.families import Family
from hf_distill.taps.attention import projection, rotated, scores
from hf_distill.taps.points import Point, Tap, read_input, read_output

LOGITS = ("logits", "start_logits", "end_logits")
"""Fields that the model's output carries."""


def tap_of(anatomy: Anatomy, signal: Signal) -> Tap:
    """What to hook for a signal, and how to read its tensor.

    Raises: `IncompatiblePair` where the model has no such signal; `DistillationError` for a malformed one.
    """
    if signal.field not in LAYERED + PLAIN or signal.field in ("input_gradient", "head_state"):
        raise DistillationError(f"{signal}: {signal.field!r} is not read from a forward pass.")
    if (signal.layer is not None) != (signal.field in LAYERED):
        kind = "needs a layer" if signal.field in LAYERED else "has no layers"
        raise DistillationError(f"{signal}: {signal.field!r} {kind}.")
    if signal.field in LOGITS:
        return _logits(anatomy, signal)
    if signal.field == "next_sentence_logits":
        return _next_sentence(anatomy, signal)
    if signal.field == "pooled":
        return _pooled(anatomy, signal)
    if signal.field == "sentence":
        return _sentence(anatomy, signal)
    shape = anatomy.shape.stack(signal.stack)
    first = 0 if signal.field == "hidden" else 1
    if signal.layer is not None and not first <= signal.layer <= shape.num_hidden_layers:
        raise IncompatiblePair(
            f"{signal}: layer {signal.layer} does not exist; the model ({anatomy.shape.family!r}) has layers "
            f"{first} to {shape.num_hidden_layers}."
        )
    return _stacked(anatomy, signal, shape)


def _logits(anatomy: Anatomy, signal: Signal) -> Tap:
    spans = class_ending(anatomy.base, ("ForQuestionAnswering",)) is not None
    if not anatomy.shape.num_logits or spans != (signal.field != "logits"):
        gives = "start_logits and end_logits" if spans else "logits" if anatomy.shape.num_logits else "no logits"
        raise IncompatiblePair(
            f"{signal}: {type(anatomy.base).__name__} gives {gives}; load the model with the task's head."
        )
    detects = anatomy.row is not None and anatomy.row.detects
    pretraining = not detects and class_ending(anatomy.base, ("ForPreTraining",))
    return Tap(output="prediction_logits" if pretraining else signal.field)


def _next_sentence(anatomy: Anatomy, signal: Signal) -> Tap:
    if class_ending(anatomy.base, ("ForPreTraining",)) is None or "next_sentence_label" not in anatomy.accepts:
        raise IncompatiblePair(
            f"{signal}: {type(anatomy.base).__name__} has no next-sentence head; load a model of a family that has "
            "one as AutoModelForPreTraining, or leave the term out."
        )
    return Tap(output="seq_relationship_logits")


def _sentence(anatomy: Anatomy, signal: Signal) -> Tap:
    """The last states, of which the vector of a text is made; models of every family have them."""
    if len(anatomy.shape.stacks) > 1:
        raise IncompatiblePair(
            f"{signal}: {type(anatomy.base).__name__} has a decoder beside its encoder; load the encoder alone, as "
            "T5EncoderModel does."
        )
    return Tap(output="last_hidden_state")


def _pooled(anatomy: Anatomy, signal: Signal) -> Tap:
    for owner in (anatomy.base.base_model, anatomy.base):
        pooler = getattr(owner, anatomy.row.pooler, None) if anatomy.row else None
        if isinstance(pooler, nn.Module):
            return Tap((Point(pooler, read_output),))
    raise IncompatiblePair(f"{signal}: {type(anatomy.base).__name__} ({anatomy.shape.family!r}) has no pooler.")


def _stacked(anatomy: Anatomy, signal: Signal, shape: StackShape) -> Tap:
    root, row = anatomy.roots[signal.stack], anatomy.known_row
    if signal.field == "final":
        # An adapter calls base.forward, not base, so a hook on the base itself would not fire.
        return Tap(output="last_hidden_state") if root is anatomy.base else Tap((Point(root, read_output),))
    blocks = anatomy.blocks(signal.stack)
    if signal.field == "embeddings" or signal.layer == 0:
        return Tap((Point(blocks[0], read_input, *_runs(blocks, 1)),))
    assert signal.layer is not None
    block, runs = blocks[signal.layer - 1], _runs(blocks, signal.layer)
    if signal.field == "hidden":
        return Tap((Point(anatomy.block_end(signal.layer, signal.stack), read_output, *runs),))
    if signal.field == "feedforward":
        return _feedforward(row, block, signal, anatomy.shape.family, runs)
    attention = block.get_submodule(row.attention)
    if signal.field == "scores":
        return scores(row, attention, shape, signal, runs)
    if signal.field.startswith("rotated_"):
        return rotated(row, attention, shape, signal, runs)
    return projection(row, attention, signal.field, runs)


def _runs(blocks: list[nn.Module], layer: int) -> tuple[int, int]:
    """How often the block of a layer runs in one pass, and how often it ran before it runs as this layer."""
    block = blocks[layer - 1]
    return blocks.count(block), blocks[: layer - 1].count(block)


def _feedforward(row: Family, block: nn.Module, signal: Signal, family: str, runs: tuple[int, int]) -> Tap:
    """What the feed-forward part has before its activation function, `[batch, length, feedforward_size]`."""
    if not row.widening:
        raise IncompatiblePair(f"{signal}: where the feed-forward part of {family!r} is, is not known.")
    point = Point(block.get_submodule(row.widening), read_output, *runs)
    return Tap((point,), lambda value: value.chunk(2, dim=-1)[0]) if row.gated else Tap((point,))
