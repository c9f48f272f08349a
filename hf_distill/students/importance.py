"""What hidden dimensions, heads and neurons of a model do on a few batches: the ground for cutting some of them."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import IncompatiblePair


@dataclass(frozen=True)
class Layout:
    """Modules below a block: the projections to queries, keys and values (one and the same where they are fused as
    [q | k | v]), the projection of what the heads give, and the first and last layers of the feed-forward part."""

    queries: str
    keys: str
    values: str
    joined: str
    widening: tuple[str, ...]
    narrowing: str


_BERT = Layout(
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    ("intermediate.dense",), "output.dense",
)  # fmt: skip
_LLAMA = Layout(
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    ("mlp.gate_proj", "mlp.up_proj"), "mlp.down_proj",
)  # fmt: skip
LAYOUTS = {
    "bert": _BERT,
    "roberta": _BERT,
    "electra": _BERT,
    "albert": Layout(
        "attention.query", "attention.key", "attention.value", "attention.dense", ("ffn",), "ffn_output"
    ),
    "mpnet": Layout(
        "attention.attn.q", "attention.attn.k", "attention.attn.v", "attention.attn.o", ("intermediate.dense",),
        "output.dense",
    ),
    "distilbert": Layout(
        "attention.q_lin", "attention.k_lin", "attention.v_lin", "attention.out_lin", ("ffn.lin1",), "ffn.lin2"
    ),
    "gpt2": Layout("attn.c_attn", "attn.c_attn", "attn.c_attn", "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj"),
    "llama": _LLAMA,
    "qwen3": _LLAMA,
}  # fmt: skip
"""Families whose width can be cut."""


@dataclass(frozen=True)
class Measured:
    """What was seen on the real tokens of all batches.

    `hidden`, `[hidden_size]`: the mean absolute activation in the output of the embeddings and of each block, divided
    by its mean over the dimensions, summed over these outputs. `squares`: for the name of a block and `queries`,
    `keys`, or the path of the layer that reads them, the sum of squares of each dimension.
    """

    hidden: Tensor
    squares: Mapping[tuple[str, str], Tensor]


def measure(
    anatomy: Anatomy, layout: Layout, blocks: Mapping[int, str], calibration: Iterable[Mapping[str, Tensor]]
) -> Measured:
    """Runs the model over the batches without gradients and in eval mode. `blocks` are the layers that matter, with
    the names of their blocks.

    Raises: `IncompatiblePair` for batches that are no mappings to tensors, hold no input, or together hold no text.
    """
    signals = [Signal(field, layer) for layer in blocks for field in ("hidden", "queries", "keys")]
    capture = Capture(anatomy, [Signal("hidden", 0), *signals], "teacher")
    squares: dict[tuple[str, str], Tensor] = {}
    absolute: dict[int, Tensor] = {}

    def add(key: tuple[str, str], value: Tensor, mask: Tensor) -> None:
        squares[key] = squares.get(key, 0) + (value.float().square() * mask).sum(dim=(0, 1))

    with closing(capture), torch.no_grad(), evaluating(anatomy.base), _inputs(anatomy, layout, blocks) as read:
        for batch in calibration:
            _, shown = capture(checked(batch, anatomy.base.device, "from_shape"))
            mask = shown.mask.unsqueeze(-1).float()  # type: ignore[union-attr]
            for layer in (0, *blocks):
                absolute[layer] = absolute.get(layer, 0) + (shown.hidden[layer].float().abs() * mask).sum(dim=(0, 1))
            for layer, name in blocks.items():
                add((name, "queries"), shown.queries[layer], mask)
                add((name, "keys"), shown.keys[layer], mask)
            for key, value in read:
                add(key, value, mask)
            read.clear()
    if not absolute:
        raise IncompatiblePair("from_shape: calibration has no batch; importance is measured on at least one.")
    if not absolute[0].any():
        raise IncompatiblePair("from_shape: calibration has no batch with text; attention_mask is 0 everywhere.")
    return Measured(torch.stack([value / value.mean() for value in absolute.values()]).sum(dim=0), squares)


def checked(batch: object, device: torch.device, maker: str) -> dict[str, Tensor]:
    """A batch of calibration on the device; `maker` is named in messages.

    Raises: `IncompatiblePair` for one that is no mapping to tensors, or holds no input.
    """
    if not isinstance(batch, Mapping) or not all(isinstance(value, Tensor) for value in batch.values()):
        raise IncompatiblePair(
            f"{maker}: a batch of calibration is {reprlib.repr(batch)}; it must map names to tensors. Give a list "
            "of batches."
        )
    if not {"input_ids", "inputs_embeds"} & batch.keys():
        raise IncompatiblePair(f"{maker}: a batch of calibration holds neither input_ids nor inputs_embeds.")
    return {name: value.to(device) for name, value in batch.items()}


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """All modules in eval mode for a while."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _inputs(
    anatomy: Anatomy, layout: Layout, blocks: Mapping[int, str]
) -> Iterator[list[tuple[tuple[str, str], Tensor]]]:
    """A list that fills with what the last layers of attention and feed-forward part read at every forward pass."""
    read: list[tuple[tuple[str, str], Tensor]] = []
    by_name = {name: anatomy.blocks()[layer - 1] for layer, name in blocks.items()}

    def hook(key: tuple[str, str]) -> Any:
        return lambda module, args: read.append((key, args[0]))

    handles = [
        block.get_submodule(path).register_forward_pre_hook(hook((name, path)))
        for name, block in by_name.items()
        for path in (layout.joined, layout.narrowing)
    ]
    try:
        yield read
    finally:
        for handle in handles:
            handle.remove()
