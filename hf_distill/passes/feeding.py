"""What objectives put in the place of a layer's output, for the time of one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import at_least_float32
from hf_distill.taps.points import Point
from hf_distill.taps.signals import tap_of

Change = Callable[[str, int, Tensor], Tensor]
"""Of the stack, the number and the output of a layer, what takes its place."""


class Feeds:
    """Layers of a model whose output `hidden[layer]` is changed before anything else reads it, inside `within`.

    `layers` are stacks and numbers of blocks, from 1. What they give is changed in at least float32, and goes on in
    the dtype that it had.

    Raises: `IncompatiblePair` for a layer that does not exist, and for one whose block runs more than once in a pass.
    """

    def __init__(self, anatomy: Anatomy, layers: Iterable[tuple[str, int]]) -> None:
        self._change: Change | None = None
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for stack, layer in sorted(layers):
            (point,) = tap_of(anatomy, Signal("hidden", layer, stack)).points
            if point.runs > 1:
                raise IncompatiblePair(
                    f"layer {layer} of the student ({anatomy.shape.family}) is a block that layers share, so its "
                    "output cannot be changed for one of them; take a student with layers of its own."
                )
            self._hook(point, stack, layer)

    def _hook(self, point: Point, stack: str, layer: int) -> None:
        def change(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            if self._change is None:
                return None
            states = output if isinstance(output, Tensor) else output[0]
            with torch.autocast(states.device.type, enabled=False):
                changed = self._change(stack, layer, at_least_float32(states)).to(states.dtype)
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        self._handles.append(point.module.register_forward_hook(change))

    def __bool__(self) -> bool:
        return bool(self._handles)

    @contextmanager
    def within(self, change: Change) -> Iterator[None]:
        """A pass in which `change` is applied."""
        self._change = change
        try:
            yield
        finally:
            self._change = None

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()
