"""Which layers of a model a shallower student keeps, by how much each matters on a few batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import IncompatiblePair
from hf_distill.students.importance import checked, evaluating
from hf_distill.students.loss_rises import loss_of_labels
from hf_distill.tasks import task_of

MEASURED = ("importance", "loss_rise")
"""Picks that are measured on batches."""

TEXTS = 4
"""Texts that a model reads at a time for its loss."""


@dataclass(frozen=True)
class Kept:
    """The layers that are kept of each stack, counted from 1, and by what they were chosen: a score for each layer, or
    where whole runs are left out for each run, by its first layer; empty where nothing was measured."""

    layers: dict[str, list[int]]
    scores: dict[str, list[float]]


def important_layers(
    anatomy: Anatomy,
    numbers: Mapping[str, int],
    pick: str,
    calibration: Iterable[Mapping[str, Tensor]],
    *,
    contiguous: bool,
    maker: str,
) -> Kept:
    """The `numbers` of layers of each stack that matter most on the real tokens of the batches, in eval mode.

    - `importance`: 1 - mean over tokens of cos(h_in, h_out), between what a block reads and what it gives (block
      influence, Men et al., 2024, arXiv:2403.03853; Muralidharan et al., 2024, arXiv:2407.14679).
    - `loss_rise`: how much the mean loss of the batches' labels rises where a block is left out, every other one in
      its place (Muralidharan et al.). It takes a pass over the batches for each block.

    With `contiguous` the layers that are left out are one run of neighbours, that with the smallest value of the same
    kind for the whole run (Gromov et al., 2024, arXiv:2403.17887; Sreenivas et al., 2024, arXiv:2408.11796). No layer
    is safe by its place. Of equals the lower layers are kept. In an encoder-decoder each stack is chosen by itself,
    with the other whole.

    Raises: `IncompatiblePair` without batches, without text, and for blocks that layers share (`loss_rise`);
    `DataError` for batches without labels (`loss_rise`).
    """
    batches = [checked(batch, anatomy.base.device, maker) for batch in calibration]
    if not batches:
        raise IncompatiblePair(f"{maker}: calibration has no batch; importance is measured on at least one.")
    lengths = {
        stack: anatomy.shape.stack(stack).num_hidden_layers - number if contiguous else 1
        for stack, number in numbers.items()
    }
    measure = _by_states if pick == "importance" else _by_loss
    with torch.no_grad(), evaluating(anatomy.base):
        scores = measure(anatomy, lengths, batches, maker)
    kept = {
        stack: _all_but_a_run(found, anatomy.shape.stack(stack).num_hidden_layers, numbers[stack])
        if contiguous
        else _largest(found, numbers[stack])
        for stack, found in scores.items()
    }
    return Kept(kept, scores)


def _largest(scores: list[float], number: int) -> list[int]:
    """The layers of the largest scores, in order."""
    return sorted(sorted(range(1, len(scores) + 1), key=lambda layer: -scores[layer - 1])[:number])


def _all_but_a_run(scores: list[float], depth: int, number: int) -> list[int]:
    """All layers but the run of the smallest score, the last one of equals; `scores` are those of the runs by their
    first layer."""
    first = min(range(len(scores), 0, -1), key=lambda start: scores[start - 1])
    return [*range(1, first), *range(first + depth - number, depth + 1)]


# --- by what blocks change ------------------------------------------------------------------------


def _by_states(
    anatomy: Anatomy, lengths: Mapping[str, int], batches: list[dict[str, Tensor]], maker: str
) -> dict[str, list[float]]:
    """1 - mean cos(h_i, h_(i + length)) for each i."""
    depths = {stack: anatomy.shape.stack(stack).num_hidden_layers for stack in lengths}
    signals = [Signal("hidden", layer, stack) for stack, depth in depths.items() for layer in range(depth + 1)]
    capture = Capture(anatomy, signals, "teacher")
    sums: dict[str, Tensor] = {}
    tokens = dict.fromkeys(lengths, 0)
    with closing(capture):
        for batch in batches:
            shown = capture(batch)[1]
            for stack, length in lengths.items():
                found, number = _likeness(shown, stack, depths[stack], length)
                sums[stack] = sums.get(stack, 0) + found
                tokens[stack] += number
    if not all(tokens.values()):
        raise IncompatiblePair(f"{maker}: calibration has no batch with text; attention_mask is 0 everywhere.")
    return {stack: (1 - sums[stack] / tokens[stack]).tolist() for stack in lengths}


def _likeness(shown: Activations, stack: str, depth: int, length: int) -> tuple[Tensor, int]:
    """Of each state and the one `length` layers on the sum of cosines over the real tokens, and how many these are."""
    states, mask = shown.stack(stack), shown.stack(stack).mask
    assert mask is not None
    hidden = [states.hidden[layer].float() for layer in range(depth + 1)]
    pairs = zip(hidden[: depth + 1 - length], hidden[length:], strict=True)
    real = mask.bool()
    cosines = [torch.cosine_similarity(before[real], after[real], dim=-1) for before, after in pairs]
    return torch.stack([value.cpu().double().sum() for value in cosines]), int(real.sum())


# --- by what the loss does without them -----------------------------------------------------------


def _by_loss(
    anatomy: Anatomy, lengths: Mapping[str, int], batches: list[dict[str, Tensor]], maker: str
) -> dict[str, list[float]]:
    """The rise of the mean loss without each block, or without each run of blocks."""
    task = task_of(anatomy.base)
    for stack in lengths:
        blocks = anatomy.blocks(stack)
        if len(set(blocks)) < len(blocks):
            raise IncompatiblePair(
                f"{maker}: layers of {anatomy.shape.family!r} share their blocks, of which none can be left out by "
                "itself; take pick 'importance'."
            )
    parts = [part for batch in batches for part in _parts(batch)]
    capture = Capture(anatomy, [Signal(field) for field in task.logit_fields], "teacher")
    with closing(capture):

        def loss() -> float:
            found = torch.stack([loss_of_labels(capture(part)[1], task, part).double().cpu() for part in parts]).sum(0)
            if not found[1]:
                raise IncompatiblePair(f"{maker}: the labels of calibration are all ignored; there is no loss.")
            return float(found[0] / found[1])

        whole = loss()
        rises: dict[str, list[float]] = {}
        for stack, length in lengths.items():
            blocks = anatomy.blocks(stack)
            rises[stack] = []
            for first in range(len(blocks) + 1 - length):
                with _without(blocks[first : first + length]):
                    rises[stack].append(loss() - whole)
    return rises


def _parts(batch: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """A few texts at a time, as the logits of a vocabulary are large."""
    for values in zip(*(torch.split(value, TEXTS) for value in batch.values()), strict=True):
        yield dict(zip(batch, values, strict=True))


@contextmanager
def _without(blocks: Iterable[nn.Module]) -> Iterator[None]:
    """Blocks give what they read for a while."""

    def pass_on(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        state = args[0] if args else kwargs["hidden_states"]
        return state if isinstance(output, Tensor) else (state, *output[1:])

    with ExitStack() as handles:
        for block in blocks:
            handles.callback(block.register_forward_hook(pass_on, with_kwargs=True).remove)
        yield
