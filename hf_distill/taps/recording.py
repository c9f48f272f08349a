"""Records the tensors of a set of signals while a model runs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError
from hf_distill.taps.points import Point, Read, Tap
from hf_distill.taps.signals import tap_of


class Taps:
    """The hooks of a set of signals. They record only while `recording` is true; `clear` empties what was recorded."""

    def __init__(self, anatomy: Anatomy, signals: Iterable[Signal], owner: str) -> None:
        self.taps = {signal: tap_of(anatomy, signal) for signal in sorted(set(signals), key=str)}
        self.owner = owner
        self.recording = False
        self._seen: dict[tuple[int, Read], list[Any]] = {}
        self._meant: dict[tuple[int, Read], set[int]] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        for tap in self.taps.values():
            for point in tap.points:
                self._hook(point)

    def _hook(self, point: Point) -> None:
        key = (id(point.module), point.read)
        meant = self._meant.setdefault(key, set())
        meant.add(point.run)
        if key in self._seen:
            return
        seen = self._seen[key] = []
        read = point.read

        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self.recording:
                seen.append(read(args, kwargs, output) if len(seen) in meant else None)

        self._handles.append(point.module.register_forward_hook(record, with_kwargs=True))

    def read(self, output: Any) -> dict[Signal, Tensor]:
        """The tensors of the pass that gave `output`; raises `DistillationError` when a hooked module did not run."""
        return {signal: self._value(signal, tap, output) for signal, tap in self.taps.items()}

    def clear(self) -> None:
        """Forgets what was recorded."""
        for seen in self._seen.values():
            seen.clear()

    def close(self) -> None:
        """Removes the hooks."""
        for handle in self._handles:
            handle.remove()

    def _value(self, signal: Signal, tap: Tap, output: Any) -> Tensor:
        if tap.output:
            return tap.combine(output[tap.output])
        return tap.combine(*[self._seen_at(signal, point) for point in tap.points])

    def _seen_at(self, signal: Signal, point: Point) -> Any:
        seen = self._seen[id(point.module), point.read]
        if len(seen) != point.runs:
            raise DistillationError(
                f"{self.owner}: {signal} is read from a {type(point.module).__name__} that ran {len(seen)} times in "
                f"this forward pass instead of {point.runs}. A hook sees nothing when it was added after "
                "torch.compile compiled the model, when another copy of the model runs, or when the layer was "
                "dropped. Capture before compiling, run the model that is captured, set layerdrop to 0."
            )
        return seen[point.run]
