"""Shapes of models that do not exist: what an objective is bound to in a test that needs no model."""

from __future__ import annotations

from hf_distill.anatomy import Shape, StackShape


def stack(layers: int = 2, width: int = 4, *, causal: bool = False) -> StackShape:
    """A stack with two heads."""
    return StackShape(layers, width, 2, 2, width // 2, causal)


def shape(
    layers: int = 2, width: int = 4, num_logits: int = 5, *, encoder_decoder: bool = False, vocab_size: int = 30
) -> Shape:
    """One stack, or an encoder and a decoder of the same size."""
    one = stack(layers, width)
    stacks = {"encoder": one, "decoder": stack(layers, width, causal=True)} if encoder_decoder else {"": one}
    return Shape("made_up", stacks, num_logits, vocab_size, None)
