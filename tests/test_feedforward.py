"""The state before the activation function of a feed-forward part, against what its last layer reads."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import IncompatiblePair
from hf_distill.taps.signals import tap_of
from tests.tiny_models import ENCODER_DECODERS, FAMILIES, batch, tiny

BERT = ("intermediate.dense", "output.dense", "hidden_act")
LLAMA = ("mlp.up_proj", "mlp.down_proj", "hidden_act")
LAYERS = {
    **dict.fromkeys(("bert", "roberta", "electra", "mpnet", "mobilebert", "ib_bert", "deberta-v2"), BERT),
    "distilbert": ("ffn.lin1", "ffn.lin2", "activation"),
    "albert": ("ffn", "ffn_output", "hidden_act"),
    "modernbert": ("mlp.Wi", "mlp.Wo", "hidden_activation"),
    "gpt2": ("mlp.c_fc", "mlp.c_proj", "activation_function"),
    "llama": LLAMA,
    "qwen3": LLAMA,
    "bart": ("fc1", "fc2", "activation_function"),
}
"""Of each family the module beside the gate, or the first one, the last one, and the name of the activation."""


def stack_of(family: str) -> str:
    return "encoder" if family in ENCODER_DECODERS else ""


@pytest.mark.parametrize("family", LAYERS)
def test_the_last_layer_reads_its_activation(family: str) -> None:
    model, stack = tiny(family), stack_of(family)
    anatomy = Anatomy.of(model)
    beside, last, name = LAYERS[family]
    block = anatomy.blocks(stack)[1]
    read: list[Tensor] = []
    given: list[Tensor] = []
    handles = [
        block.get_submodule(last).register_forward_pre_hook(lambda module, args: read.append(args[0])),
        block.get_submodule(beside).register_forward_hook(lambda module, args, output: given.append(output)),
    ]
    capture = Capture(anatomy, [Signal("feedforward", 2, stack)], role="test")
    with closing(capture), torch.no_grad():
        shown: Any = capture(batch(family))[1].stack(stack).feedforward[2]
    for handle in handles:
        handle.remove()
    run = 1 if family == "albert" else 0  # its layers share a block
    expected = ACT2FN[getattr(model.config, name)](shown)
    if family in ("llama", "qwen3"):
        expected = expected * given[run]
    if family == "modernbert":
        expected = expected * given[run].chunk(2, -1)[1]
    torch.testing.assert_close(read[run], expected)
    assert shown.shape[-1] == anatomy.shape.stack(stack).feedforward_size


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {*LAYERS}))
def test_a_part_that_is_not_known_is_refused(family: str) -> None:
    anatomy = Anatomy.of(tiny(family))
    assert anatomy.shape.stack(stack_of(family)).feedforward_size == 0
    with pytest.raises(IncompatiblePair, match=f"where the feed-forward part of '{family}' is, is not known"):
        tap_of(anatomy, Signal("feedforward", 1, stack_of(family)))
