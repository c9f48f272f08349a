"""One model run whole and in part."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.depth import Run, shallow


class Shown(NamedTuple):
    values: dict[Signal, Tensor]
    gradients: dict[str, Tensor]


def signals(*names: str, stack: str = "") -> list[Signal]:
    """`hidden.2`, `final` as signals of one stack; logits belong to none."""
    made = []
    for name in names:
        field, _, layer = name.partition(".")
        made.append(Signal(field, int(layer) if layer else None, "" if field == "logits" else stack))
    return made


def read(activations: Activations, signal: Signal) -> Tensor:
    value = getattr(activations.stack(signal.stack), signal.field)
    return value if signal.layer is None else value[signal.layer]


def shown(model: nn.Module, read_signals: Iterable[Signal], inputs: dict[str, Tensor], run: Run) -> Shown:
    """The signals, and the gradient of a sum of them in which no two elements weigh the same."""
    capture = Capture(Anatomy.of(model), read_signals, "teacher", run=run)
    try:
        activations = capture(inputs)[1]
    finally:
        capture.close()
    values = {signal: read(activations, signal) for signal in read_signals}
    sum((value * torch.linspace(0.5, 1.5, value.numel()).view_as(value)).sum() for value in values.values()).backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return Shown({signal: value.detach() for signal, value in values.items()}, gradients)


def compare(model: nn.Module, read_signals: list[Signal], inputs: dict[str, Tensor]) -> str:
    """Asserts that a run in part shows and moves what the whole model does; says what ran."""
    model.requires_grad_(True)
    anatomy = Anatomy.of(model)
    run = shallow(anatomy, read_signals)
    whole = shown(model, read_signals, inputs, Run.whole(anatomy))
    part = shown(model, read_signals, inputs, run)
    for signal, value in whole.values.items():
        torch.testing.assert_close(
            part.values[signal], value, rtol=1e-5, atol=1e-5, msg=lambda m, s=signal: f"{s}: {m}"
        )
    largest = max(float(gradient.abs().max()) for gradient in whole.gradients.values())
    for name, gradient in whole.gradients.items():
        found = part.gradients.get(name, torch.zeros_like(gradient))
        assert float((found - gradient).abs().max()) < 1e-6 * largest, name
    return run.description
