"""Decides, from the signals that are read, how much of a model runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn
from transformers import PreTrainedModel

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy, class_ending
from hf_distill.taps.signals import LOGITS

HEADS = frozenset({*LOGITS, "next_sentence_logits"})
"""Fields that the head gives."""

ABOVE = HEADS | {"final", "pooled", "sentence"}
"""Fields for which all layers run."""

LIBRARIES = ("transformers", "torch", "peft", "hf_distill")
"""Packages whose modules compute what the table says of them."""

Position = Literal["", "first", "last"]


@dataclass(frozen=True)
class Plan:
    """What runs: `base`, the model or a submodel without the head, and in its stack `stack` the first `depth` layers.

    `projections`: the paths of the projections that run of the last of these layers, where nothing else of it is read.
    `position`: which position of each sequence that layer is computed for; empty for all. `head`, `pooled`, `above`:
    whether the output of the head, of the pooler, of what follows the blocks is read.
    """

    base: PreTrainedModel
    stack: str
    depth: int
    projections: tuple[str, ...] | None
    position: Position
    head: bool
    pooled: bool
    above: bool

    @classmethod
    def of(cls, anatomy: Anatomy, signals: frozenset[Signal]) -> Plan:
        """The least that shows these signals; the family has a row in the table."""
        fields = {signal.field for signal in signals}
        base = _submodel(anatomy, signals, fields)
        stack = _last_stack(anatomy, base)
        here = {signal for signal in signals if signal.stack == stack or not signal.stack}
        all_layers = anatomy.shape.stack(stack).num_hidden_layers
        above = any(signal.field in ABOVE for signal in here)
        depth = all_layers if above else max((signal.layer or 0 for signal in here), default=all_layers)
        deepest = {signal.field for signal in here if depth and signal.layer == depth}
        position: Position = ""
        if above and not deepest and "final" not in fields:
            position = _position(anatomy, fields, depth)
        projections = None if above else _projections(anatomy, stack, depth, deepest)
        return cls(base, stack, depth, projections, position, bool(fields & HEADS), "pooled" in fields, above)


def runs_whole(anatomy: Anatomy) -> str:
    """Why this model cannot run in part, or nothing.

    A forward that somebody put in place of a module's own (a device map, a compiled module) would run the module that
    it was made for; a module of a class that no library brought reads what it likes; sharded weights are gathered by
    hooks that count on all layers; states that the config asks for are those of all layers; an adapter that is no
    plain LoRA may act outside the layers.
    """
    config = anatomy.base.config
    if anatomy.row is None:
        return f"{anatomy.shape.family!r} has no row in the family table"
    if strange := foreign(anatomy):
        return f"{strange} is no class of transformers"
    if any(_is_replaced(module) for module in anatomy.base.modules()):
        return "a module's forward is not its own"
    if any(hasattr(parameter, "device_mesh") for parameter in anatomy.base.parameters()):
        return "its weights are sharded"
    if getattr(config, "output_hidden_states", False) or getattr(config, "output_attentions", False):
        return "its config asks for the states of all layers"
    model: Any = anatomy.model
    adapters = model.peft_config.values() if model is not anatomy.base else ()
    if any(each.peft_type != "LORA" or getattr(each, "alora_invocation_tokens", None) for each in adapters):
        return "its adapter is no plain LoRA"
    return ""


def foreign(anatomy: Anatomy) -> str:
    """The first class among a model's modules that no library brought, or nothing."""
    kinds = {type(module) for module in anatomy.base.modules()}
    return min((kind.__qualname__ for kind in kinds if kind.__module__.partition(".")[0] not in LIBRARIES), default="")


def _is_replaced(module: nn.Module) -> bool:
    return "forward" in vars(module) or vars(module).get("_compiled_call_impl") is not None


def _submodel(anatomy: Anatomy, signals: frozenset[Signal], fields: set[str]) -> PreTrainedModel:
    """The model; without its head where nothing reads that; the encoder where nothing reads anything behind it."""
    model, backbone = anatomy.base, anatomy.base.base_model
    pooler = anatomy.row.pooler  # type: ignore[union-attr]
    if fields & HEADS or ("pooled" in fields and getattr(backbone, pooler, None) is None):
        return model
    parts = [anatomy.roots[stack] for stack in {signal.stack for signal in signals} if len(anatomy.roots) == 2]
    part: Any = parts[0] if parts == [anatomy.roots.get("encoder")] else backbone
    return part if isinstance(part, PreTrainedModel) and "input_ids" in anatomy.part(part).accepts else model


def _last_stack(anatomy: Anatomy, base: nn.Module) -> str:
    """The stack that gives the submodel's output."""
    if len(anatomy.roots) == 1:
        return ""
    return "encoder" if base is anatomy.roots["encoder"] else "decoder"


def _projections(anatomy: Anatomy, stack: str, depth: int, fields: set[str]) -> tuple[str, ...] | None:
    """The projections that suffice for these fields of the last layer, none for no layer; None if all of it runs."""
    row = anatomy.row
    assert row is not None
    if row.attention_norm is None:
        return None
    names = {field.removeprefix("rotated_") for field in fields}
    if "scores" in names and row.scores != "returned_bias":
        names = names - {"scores"} | {"queries", "keys"}
    attention = anatomy.blocks(stack)[max(depth, 1) - 1].get_submodule(row.attention)
    once = row.runs(attention) == 1 or names <= {"values"}
    if not names <= {"queries", "keys", "values"} or not once:
        return None
    return tuple(dict.fromkeys(getattr(row, name) for name in ("queries", "keys", "values") if name in names))


def _position(anatomy: Anatomy, fields: set[str], depth: int) -> Position:
    """The one position of the last layer that is read, if it is one."""
    row, base = anatomy.row, anatomy.base
    assert row is not None
    position = row.position(base.config)
    classified = class_ending(base, ("ForSequenceClassification",)) is not None
    read_there = {"logits", "pooled"} if classified else {"pooled"}
    if not position or not fields & ABOVE <= read_there or (position == "last" and "logits" not in fields):
        return ""
    # A convolution over positions follows the first block; chunks of one position do not divide.
    convolved = depth == 1 and anatomy.ends_behind_block(1)
    chunked = bool(getattr(base.config, "chunk_size_feed_forward", None))
    return "" if convolved or chunked else position
