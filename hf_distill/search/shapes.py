"""The shapes that a student may have: fewer of its teacher's layers, and less of their width."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedModel

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair

DEPTHS = 8
"""At most so many depths are looked at, spread over the teacher's."""

WIDTHS = ((1, 1), (1, 1 / 2), (3 / 4, 3 / 4), (1 / 2, 1 / 2), (1 / 4, 1 / 4))
"""Shares of the teacher's heads, which keep their size, and of the width inside its feed-forward layers."""


@dataclass(frozen=True, order=True)
class Width:
    """The width of a student's layers; `whole` is the teacher's own, from which nothing was cut."""

    hidden_size: int
    num_attention_heads: int
    intermediate_size: int
    whole: bool = False


@dataclass(frozen=True)
class Shape:
    """A student to be made of its teacher. `params` counts its parameters, `teacher_params` the teacher's."""

    num_hidden_layers: int
    width: Width
    params: int
    teacher_params: int

    @property
    def name(self) -> str:
        """`3x384`, or `3x192-768` where the width inside is not the teacher's, too."""
        inside = "" if self.width.whole else f"-{self.width.intermediate_size}"
        return f"{self.num_hidden_layers}x{self.width.hidden_size}{inside}"

    def section(self) -> dict[str, Any]:
        """The recipe's student: layers of the teacher, in width cut to what matters most on the training rows."""
        if self.width.whole:
            return {"from_layers": {"layers": self.num_hidden_layers, "pick": "spread"}}
        return {"from_shape": {"initialisation": "importance", **self._sizes()}}

    def model(self, teacher: PreTrainedModel) -> PreTrainedModel:
        """A model of that shape whose weights mean nothing where width was cut."""
        if self.width.whole:
            return students.from_layers(teacher, layers=self.num_hidden_layers, pick="spread")
        return students.from_shape(teacher, **self._sizes())

    def _sizes(self) -> dict[str, Any]:
        sizes = {name: size for name, size in asdict(self.width).items() if name != "whole"}
        return {"num_hidden_layers": self.num_hidden_layers, **sizes}


def shapes_of(teacher: PreTrainedModel) -> tuple[list[Shape], list[str]]:
    """The shapes, smallest first, and what was left out and why.

    Depths are all of the teacher's up to eight, or eight spread over them; widths are quarters of its heads and of the
    width inside its feed-forward layers. The teacher's own shape is one of them. A family that cannot be resized
    (`students.from_shape`) is cut in depth alone.

    Raises: `IncompatiblePair` for a teacher without one stack of layers.
    """
    bare = copy.deepcopy(teacher).to("meta")
    total = sum(parameter.numel() for parameter in bare.parameters())
    found: list[Shape] = []
    left_out: dict[str, None] = {}
    for width in _widths(teacher):
        for depth in depths_of(Anatomy.of(teacher).shape.stack().num_hidden_layers):
            shape = Shape(depth, width, 0, total)
            try:
                params = sum(parameter.numel() for parameter in shape.model(bare).parameters())
            except IncompatiblePair as error:
                left_out[str(error)] = None
                break
            found.append(Shape(depth, width, params, total))
    return sorted(found, key=lambda shape: (shape.params, shape.name)), list(left_out)


def by_width(shapes: list[Shape]) -> Mapping[Width, list[Shape]]:
    """The shapes of each width, shallowest first: their time grows with depth, and evenly."""
    found: dict[Width, list[Shape]] = {}
    for shape in sorted(shapes, key=lambda shape: shape.num_hidden_layers):
        found.setdefault(shape.width, []).append(shape)
    return found


def _widths(teacher: PreTrainedModel) -> list[Width]:
    stack = Anatomy.of(teacher).shape.stack()
    whole = Width(stack.hidden_size, stack.num_attention_heads, stack.feedforward_size, whole=True)
    found = {(whole.hidden_size, whole.intermediate_size): whole}
    for of_heads, of_inside in WIDTHS[1:] if stack.feedforward_size else ():
        heads = max(1, round(of_heads * stack.num_attention_heads))
        hidden = stack.hidden_size * heads // stack.num_attention_heads
        width = Width(hidden, heads, max(1, round(of_inside * stack.feedforward_size)))
        found.setdefault((width.hidden_size, width.intermediate_size), width)
    return list(found.values())


def depths_of(layers: int) -> list[int]:
    """All depths up to that of the teacher, or eight spread over them."""
    if layers <= DEPTHS:
        return list(range(1, layers + 1))
    return sorted({round(1 + i * (layers - 1) / (DEPTHS - 1)) for i in range(DEPTHS)})
