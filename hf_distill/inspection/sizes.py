"""The shapes of what terms read, in words."""

from __future__ import annotations

from collections.abc import Iterable

from hf_distill.activations import LAYERED, Signal
from hf_distill.anatomy import Shape, StackShape
from hf_distill.tasks import Task

PER_TEXT = ("single_label", "multi_label", "regression")
"""Tasks with one answer for a text."""


def signals_of(signals: Iterable[Signal], shape: Shape, task: Task) -> str:
    """What is read of a model: `hidden[0, 2, 4] [batch, length, 384]`; signals of one shape stand together."""
    groups: dict[str, dict[str, list[int]]] = {}
    for signal in sorted(signals, key=lambda each: (str(each._replace(layer=None)), each.layer or 0)):
        names = groups.setdefault(_dimensions(signal, shape, task), {})
        layers = names.setdefault(str(signal._replace(layer=None)), [])
        if signal.layer is not None:
            layers.append(signal.layer)
    return ", ".join(
        f"{', '.join(name + _numbers(layers) for name, layers in names.items())} {sizes}".strip()
        for sizes, names in groups.items()
    )


def _numbers(layers: list[int]) -> str:
    return f"[{', '.join(map(str, layers))}]" if layers else ""


def _dimensions(signal: Signal, shape: Shape, task: Task) -> str:
    field = signal.field
    if field == "logits":
        return f"[batch, {shape.num_logits}]" if task.name in PER_TEXT else f"[batch, length, {shape.num_logits}]"
    if field in ("start_logits", "end_logits"):
        return "[batch, length]"
    if field == "next_sentence_logits":
        return "[batch, 2]"
    stacks = list(shape.stacks.values())
    if not stacks:
        return ""
    stack = shape.stacks.get(signal.stack, stacks[-1])
    if field == "scores":
        return f"[batch, {stack.num_attention_heads}, length, length]"
    if field in ("pooled", "sentence"):
        return f"[batch, {stack.hidden_size if field == 'pooled' else shape.sentence_width}]"
    width = _width(field, stack) if field in LAYERED else stack.hidden_size
    return f"[batch, length, {width}]" if width else "[batch, length, width]"


def _width(field: str, stack: StackShape) -> int:
    if field == "hidden":
        return stack.hidden_size
    if field == "feedforward":
        return stack.feedforward_size
    heads = stack.num_attention_heads if "queries" in field else stack.num_key_value_heads
    return heads * stack.head_size
