"""What a forward pass shows, and what an objective asks to be shown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hf_distill.errors import DistillationError

LAYERED = ("hidden", "queries", "keys", "rotated_queries", "rotated_keys", "values", "scores", "feedforward")
"""Fields kept per layer. `hidden[0]` is the embedding output, `hidden[i]` the raw output of block i; the others start
at 1.
"""

PLAIN = (
    "logits",
    "start_logits",
    "end_logits",
    "next_sentence_logits",
    "final",
    "head_state",
    "embeddings",
    "pooled",
    "sentence",
    "input_gradient",
)
"""Fields kept once per pass. `final` is the state after the last norm, which the head reads; `head_state` is the same
in the axes of a teacher that keeps it in other ones, and is read by that teacher's own head alone. `sentence` is the
vector of each text, as `hf_distill.sentences` makes it of `final`."""


@dataclass(frozen=True)
class Pass:
    """One run over the batch. `main` is the batch as it came; the kinds in `passes.py` say what changes (rows, noise,
    distortion). `gradient`: whether the student's shows carry gradients.
    """

    name: str = "main"
    gradient: bool = True


MAIN = Pass()


class Signal(NamedTuple):
    """One tensor of one pass: a field, its layer if it has one, its stack in an encoder-decoder, and of several
    teachers the one it is read of; empty for all of them.
    """

    field: str
    layer: int | None = None
    stack: str = ""
    source: Pass = MAIN
    member: str = ""

    def __str__(self) -> str:
        place = (f"{self.member}: " if self.member else "") + (f"{self.stack}." if self.stack else "")
        layer = "" if self.layer is None else f"[{self.layer}]"
        return f"{place}{self.field}{layer}" + ("" if self.source == MAIN else f" ({self.source.name})")


@dataclass(frozen=True)
class Needs:
    """Which signals an objective reads from the student and from its teacher. `a | b` is the union."""

    student: frozenset[Signal] = frozenset()
    teacher: frozenset[Signal] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(self.student | other.student, self.teacher | other.teacher)

    @staticmethod
    def of(student: Iterable[Signal] = (), teacher: Iterable[Signal] = ()) -> Needs:
        return Needs(frozenset(student), frozenset(teacher))

    def on(self, member: str) -> Needs:
        """The same, read of that one of several teachers; nothing changes without a name."""
        return Needs(self.student, frozenset(s._replace(member=member) for s in self.teacher)) if member else self


class Activations:
    """What one forward pass of one model showed.

    Fields of `LAYERED` are mappings from layer to tensor; fields of `PLAIN` are tensors; `mask` is `[batch, length]`,
    1 on real tokens. Shapes: `hidden[i]`, `final` `[batch, length, width]`; `queries[i]`, `keys[i]`, `values[i]`
    `[batch, length, heads * head_size]`, before any rotation and, with grouped heads, not repeated;
    `rotated_queries[i]`, `rotated_keys[i]` the same after the rotary position embedding, if there is one; `scores[i]`
    `[batch, heads, length, length]` in at least float32, before the softmax and unmasked; `feedforward[i]`
    `[batch, length, width]`, of the feed-forward part before its activation function, or of its gate; `pooled`,
    `sentence` `[batch, width]`; `next_sentence_logits` `[batch, 2]`, of a pre-training head.

    A field that nobody asked for is absent; reading it raises `DistillationError`, naming the objective that reads.
    `members` is empty but for several teachers (`EnsembleActivations`). `passes`: what further passes showed
    (`in_pass`); `drawn`: what such a pass drew or chose, which the other model's pass must have in common with it.
    `input_gradient` is `[batch, length, width]`, one row an input token.
    """

    members: Mapping[str, Activations] = MappingProxyType({})
    passes: Mapping[Pass, Activations] = MappingProxyType({})
    drawn: Mapping[str, Tensor] = MappingProxyType({})

    def __init__(self, mask: Tensor | None = None, reader: str = "", **tensors: Any) -> None:
        unknown = sorted(set(tensors) - set(LAYERED) - set(PLAIN) - {"encoder", "decoder"})
        if unknown:
            raise DistillationError(
                f"Activations has no field {unknown[0]!r}; the fields are {', '.join(LAYERED + PLAIN)}."
            )
        self.mask = mask
        self.reader = reader
        self.tensors = {name: value for name, value in tensors.items() if value is not None}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name in ("tensors", "mask", "reader"):
            raise AttributeError(name)
        if name in LAYERED:
            return _Layers(name, self.tensors.get(name, {}), self.reader)
        if name in self.tensors:
            value = self.tensors[name]
            return value.read_by(self.reader) if isinstance(value, Activations) else value
        raise DistillationError(_absent(name, self.reader, self.tensors))

    def stack(self, name: str) -> Activations:
        """The activations of one stack: `encoder` or `decoder` of an encoder-decoder, or itself when `name` is
        empty.
        """
        stacked: Activations = getattr(self, name) if name else self
        return stacked

    def in_pass(self, source: Pass) -> Activations:
        """What the same model showed in another pass over the batch.

        Raises: `DistillationError` where that pass did not run, naming the objective that reads.
        """
        if source == MAIN:
            return self
        if source not in self.passes:
            ran = ", ".join(["main", *(str(each.name) for each in self.passes)])
            raise DistillationError(
                f"{_who(self.reader)} reads the pass {source.name!r}, which did not run (there ran: {ran}). Declare "
                "its signals in the objective's needs()."
            )
        return self.passes[source].read_by(self.reader)

    def read_by(self, objective: str) -> Activations:
        """The same activations; errors about absent fields name `objective`."""
        view = Activations.__new__(Activations)
        view.mask, view.tensors, view.reader = self.mask, self.tensors, objective
        if self.passes or self.drawn:
            view.passes, view.drawn = self.passes, self.drawn
        return view

    def cloned(self) -> Activations:
        """The same values in tensors of their own."""
        return self._each(lambda tensor: tensor.clone(), lambda mask: mask.clone() if mask.is_inference() else mask)

    def to(self, device: torch.device) -> Activations:
        """The same on a device."""
        return self._each(lambda tensor: tensor.to(device), lambda mask: mask.to(device))

    def _each(self, change: Callable[[Tensor], Tensor], of_mask: Callable[[Tensor], Tensor]) -> Activations:
        """With every tensor changed, those of further passes too, and the mask in a way of its own."""
        made: dict[str, Any] = {}
        for name, value in self.tensors.items():
            if isinstance(value, Activations):
                made[name] = value._each(change, of_mask)
            elif name in LAYERED:
                made[name] = {layer: change(tensor) for layer, tensor in value.items()}
            else:
                made[name] = change(value)
        changed = Activations(None if self.mask is None else of_mask(self.mask), self.reader, **made)
        changed.passes = {source: shown._each(change, of_mask) for source, shown in self.passes.items()}
        changed.drawn = {name: change(tensor) for name, tensor in self.drawn.items()}
        return changed

    def signals(self, stack: str = "") -> set[Signal]:
        """Every signal that is present."""
        found: set[Signal] = set()
        for name, value in self.tensors.items():
            if isinstance(value, Activations):
                found |= value.signals(name)
            elif name in LAYERED:
                found |= {Signal(name, layer, stack) for layer in value}
            else:
                found.add(Signal(name, None, stack))
        for source, shown in self.passes.items():
            found |= {signal._replace(source=source) for signal in shown.signals(stack)}
        return found

    def member(self, name: str) -> Activations:
        """What that one of several teachers showed, or itself without a name."""
        if name and name not in self.members:
            raise DistillationError(f"no teacher {name!r} showed anything; those that did are {[*self.members]}.")
        return self.members[name] if name else self


class EnsembleActivations(Activations):
    """What several teachers showed of one batch, `members`, each under its name; together they have no field."""

    def __init__(self, members: Mapping[str, Activations]) -> None:
        super().__init__(next(each.mask for each in members.values()))
        self.members = members

    def read_by(self, objective: str) -> EnsembleActivations:
        return EnsembleActivations({name: each.read_by(objective) for name, each in self.members.items()})


class _Layers(Mapping[int, Tensor]):
    """The layers of one field; a missing layer is an error that says who asked for it."""

    def __init__(self, name: str, layers: Mapping[int, Tensor], reader: str) -> None:
        self._name, self._layers, self._reader = name, layers, reader

    def __getitem__(self, layer: int) -> Tensor:
        if layer not in self._layers:
            raise DistillationError(_absent(f"{self._name}[{layer}]", self._reader, {self._name: self._layers}))
        return self._layers[layer]

    def __iter__(self) -> Any:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers


def _absent(name: str, reader: str, tensors: Mapping[str, Any]) -> str:
    present = ", ".join(str(s) for s in sorted(_present(tensors), key=str)) or "nothing"
    return (
        f"{_who(reader)} reads {name}, which was not captured (present: {present}). Declare it in the objective's "
        "needs()."
    )


def _who(reader: str) -> str:
    return f"objective {reader!r}" if reader else "a reader"


def _present(tensors: Mapping[str, Any]) -> set[Signal]:
    view = Activations.__new__(Activations)
    view.mask, view.tensors, view.reader = None, dict(tensors), ""
    return view.signals()
