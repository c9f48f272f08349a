"""Shapes of models that do not exist: what an objective is bound to in a test that needs no model."""

from __future__ import annotations

from hf_distill.anatomy import Shape, StackShape


def stack(layers: int = 2, width: int = 4, *, heads: int = 2, causal: bool = False) -> StackShape:
    """A stack with as many key-value heads as heads."""
    return StackShape(layers, width, heads, heads, width // heads, causal, feedforward_size=2 * width)


def shape(
    layers: int = 2,
    width: int = 4,
    num_logits: int = 5,
    *,
    heads: int = 2,
    causal: bool = False,
    encoder_decoder: bool = False,
    vocab_size: int = 30,
) -> Shape:
    """One stack, or an encoder and a decoder of the same size."""
    one = stack(layers, width, heads=heads, causal=causal)
    decoder = stack(layers, width, heads=heads, causal=True)
    stacks = {"encoder": one, "decoder": decoder} if encoder_decoder else {"": one}
    return Shape("made_up", stacks, num_logits, vocab_size, None)
