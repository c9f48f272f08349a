"""How much a model's loss would rise without each feature of some hidden layers: what DELTA weighs features by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import IncompatiblePair
from hf_distill.losses import at_least_float32, blank, label_loss, masked_sum
from hf_distill.objectives.base import Rises
from hf_distill.students.importance import checked, evaluating
from hf_distill.taps.signals import tap_of
from hf_distill.tasks import Task


def loss_rises(model: nn.Module, task: Task, asked: Rises, batches: Iterable[Mapping[str, Tensor]]) -> Tensor:
    """The rise of the loss of the labels without each feature, `[layers, width]`, over all labels of the batches.

    By `ablation` each feature of each layer is set to 0 in turn, which takes a forward pass for each and for each
    batch; by `gradient` it is estimated to first order, as |h_j dL/dh_j| averaged over the real tokens, with one
    backward pass a batch. In eval mode; parameters, gradients and modes are left as they were.

    Raises: `IncompatiblePair` without batches, for layers that share a block, and for a model whose layers depend on
    nothing that trains; `DataError` for a batch without labels.
    """
    anatomy = Anatomy.of(model)
    given = [checked(batch, anatomy.base.device, "delta") for batch in batches]
    if not given:
        raise IncompatiblePair("delta: there is no batch to weigh the features on; train on one at least.")
    with evaluating(anatomy.base):
        measure = _by_ablation if asked.how == "ablation" else _by_gradient
        return measure(anatomy, task, asked, given)


def _by_ablation(anatomy: Anatomy, task: Task, asked: Rises, batches: list[dict[str, Tensor]]) -> Tensor:
    width = anatomy.shape.stack(asked.stack).hidden_size
    capture = Capture(anatomy, [Signal(field) for field in task.logit_fields], role="measured")

    def loss() -> Tensor:
        found = [loss_of_labels(capture(batch)[1], task, batch) for batch in batches]
        total = torch.stack(found).sum(0)
        return total[0] / total[1].clamp(min=1)

    with closing(capture), torch.no_grad():
        base = loss()
        rises = []
        for layer in asked.layers:
            for feature in range(width):
                with _without(anatomy, layer, asked.stack, feature):
                    rises.append(loss() - base)
    return torch.stack(rises).view(len(asked.layers), width)


def loss_of_labels(shown: Activations, task: Task, batch: dict[str, Tensor]) -> Tensor:
    """The loss of a batch's labels, summed, and their number, `[2]`."""
    rows, targets = task.rows(shown, batch, next(iter(task.tokens), "")), task.targets(batch)
    pairs = zip(rows, targets, strict=True)
    losses = [label_loss(at_least_float32(logits), labels, task.form) for logits, labels in pairs]
    mask = task.label_mask(batch)
    value = masked_sum(sum(losses[1:], losses[0]) / len(losses), mask)
    return torch.stack((value, mask.sum().to(value.dtype)))


@contextmanager
def _without(anatomy: Anatomy, layer: int, stack: str, feature: int) -> Iterator[None]:
    """A feature of a layer's output is 0 for a while."""
    (point,) = tap_of(anatomy, Signal("hidden", layer, stack)).points
    if point.runs != 1 or layer == 0:
        raise IncompatiblePair(
            f"delta: layer {layer} has no block of its own whose features could be left out; set "
            "importance='gradient' or 'uniform'."
        )

    def leave_out(module: nn.Module, args: Any, output: Any) -> Any:
        state = output if isinstance(output, Tensor) else output[0]
        less = state.index_fill(-1, torch.tensor(feature, device=state.device), 0.0)
        return less if isinstance(output, Tensor) else (less, *output[1:])

    handle = point.module.register_forward_hook(leave_out)
    try:
        yield
    finally:
        handle.remove()


def _by_gradient(anatomy: Anatomy, task: Task, asked: Rises, batches: list[dict[str, Tensor]]) -> Tensor:
    hidden = [Signal("hidden", layer, asked.stack) for layer in asked.layers]
    capture = Capture(anatomy, [*hidden, *(Signal(field) for field in task.logit_fields)], role="measured")
    sums, tokens = [], []
    with closing(capture), torch.enable_grad():
        for batch in batches:
            shown = capture(batch)[1]
            states = [shown.stack(asked.stack).hidden[layer] for layer in asked.layers]
            if not all(state.requires_grad for state in states):
                raise IncompatiblePair(
                    "delta: the mapped layers depend on nothing that trains, so there is no gradient to weigh their "
                    "features by; train the layers below, or set importance='ablation' or 'uniform'."
                )
            mask = shown.stack(asked.stack).mask
            assert mask is not None
            gradients = torch.autograd.grad(loss_of_labels(shown, task, batch)[0], states)
            products = [(s.detach() * g).float().abs() for s, g in zip(states, gradients, strict=True)]
            sums.append(torch.stack([blank(product, mask).sum((0, 1)) for product in products]))
            tokens.append(mask.sum())
    return torch.stack(sums).sum(0) / torch.stack(tokens).sum().clamp(min=1)
