"""Which parameters of a model its layers and signals depend on."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.taps.recording import Taps


def unreached(anatomy: Anatomy, signals: Iterable[Signal]) -> list[tuple[str, nn.Parameter]]:
    """The trainable parameters that none of these signals depends on, by their names in `anatomy.model`.

    Found by one forward and backward pass over a few tokens in eval mode; gradients are left as they were. Signals
    of other passes are taken for those of the main one; what has no gradient reaches nothing.
    """
    signals = {_reaching(signal) for signal in signals if signal.source.gradient}
    parameters = [(name, p) for name, p in anatomy.model.named_parameters() if p.requires_grad]
    held = [p.grad for _, p in parameters]
    modes = [(module, module.training) for module in anatomy.model.modules()]
    for _, parameter in parameters:
        parameter.grad = None
    try:
        anatomy.model.eval()
        _backward(anatomy, signals)
        return [(name, p) for name, p in parameters if p.grad is None]
    finally:
        for module, training in modes:
            module.training = training
        for (_, parameter), grad in zip(parameters, held, strict=True):
            parameter.grad = grad


def layer_parameters(anatomy: Anatomy, layer: int, stack: str = "") -> list[tuple[str, nn.Parameter]]:
    """The parameters of block `layer`, or for 0 the trainable ones that the embedding output depends on, by their
    names in `anatomy.model`.

    Raises: `IncompatiblePair` for a layer that does not exist.
    """
    depth = anatomy.shape.stack(stack).num_hidden_layers
    if not 0 <= layer <= depth:
        raise IncompatiblePair(f"layer {layer} does not exist; the model has layers 0 to {depth}.")
    if layer:
        ours = {id(parameter) for parameter in anatomy.blocks(stack)[layer - 1].parameters()}
    else:
        others = {id(parameter) for _, parameter in unreached(anatomy, [Signal("hidden", 0, stack)])}
        ours = {id(p) for p in anatomy.model.parameters() if p.requires_grad and id(p) not in others}
    return [(name, parameter) for name, parameter in anatomy.model.named_parameters() if id(parameter) in ours]


def _reaching(signal: Signal) -> Signal:
    """A signal of the main pass that depends on the same parameters."""
    return Signal("logits" if signal.field == "input_gradient" else signal.field, signal.layer, signal.stack)


def _backward(anatomy: Anatomy, signals: Iterable[Signal]) -> None:
    taps = Taps(anatomy, signals, "unreached parameters")
    try:
        with torch.enable_grad():
            taps.recording = True
            output = anatomy.model(**_few_tokens(anatomy), return_dict=True)
            values = [value.float().sum() for value in taps.read(output).values() if value.requires_grad]
            if values:
                torch.autograd.backward(values)
    finally:
        taps.close()


def _few_tokens(anatomy: Anatomy) -> dict[str, Tensor]:
    """A batch of one short text, without padding and ending in the end token, which some heads look for."""
    config = anatomy.base.config
    if "input_ids" not in anatomy.accepts:
        raise IncompatiblePair(f"{type(anatomy.base).__name__} reads no input_ids; it is no text model.")
    pad, begin, end = (getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos"))
    ends = end if isinstance(end, list) else [end]
    special = {pad, begin, *ends}
    word = next(token for token in range(anatomy.shape.vocab_size) if token not in special)
    ids = torch.full((1, 4), word, device=anatomy.base.device)
    if ends[0] is not None:
        ids[0, -1] = ends[0]
    names = {"input_ids", "decoder_input_ids"} & anatomy.accepts
    return dict.fromkeys(names, ids)
