"""Masks that models need not look into."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.depth import ready, takes_ready
from tests.test_step_cost import Operators
from tests.tiny_models import CLASSIFIER, FAMILIES, batch, tiny

PLAIN = ("bert", "roberta", "distilbert", "electra", "albert", "mobilebert", "ib_bert")
NEVER_LOOK = ("mpnet", "deberta-v2")
"""These add their masks to the scores in any case."""

WAITS = ("aten._local_scalar_dense.default", "aten.is_nonzero.default", "aten.nonzero.default")


def model(family: str, attention: str = "sdpa"):
    made = tiny(family, CLASSIFIER if family not in ("t5", "bart") else "")
    if family not in NEVER_LOOK:
        made.set_attn_implementation(attention)
    return made


def without_padding(family: str) -> dict[str, Tensor]:
    return {name: value[:1] for name, value in batch(family).items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_masks_of_families_that_only_hide_positions_are_made_ready(family: str) -> None:
    anatomy = Anatomy.of(model(family))
    padded, full = batch(family)["attention_mask"], without_padding(family)["attention_mask"]
    assert takes_ready(anatomy) == (family in PLAIN)
    if family not in PLAIN:
        return
    assert torch.equal(ready(anatomy, padded), padded.bool()[:, None, None, :])
    assert ready(anatomy, full) is None


def test_other_forms_and_other_attentions_keep_their_mask() -> None:
    padded = batch("bert")["attention_mask"]
    square = padded[:, None, :] * padded[:, :, None]
    assert ready(Anatomy.of(model("bert")), square) is square
    assert ready(Anatomy.of(model("bert", "eager")), padded) is padded
    decoder = model("bert")
    decoder.config.is_decoder = True
    assert ready(Anatomy.of(decoder), padded) is padded


@pytest.mark.parametrize("family", PLAIN)
@pytest.mark.parametrize("padded", [True, False])
def test_a_pass_waits_for_nothing_and_gives_the_same_bits(family: str, padded: bool) -> None:
    made = model(family)
    inputs = batch(family) if padded else without_padding(family)
    capture = Capture(Anatomy.of(made), [Signal("logits"), Signal("hidden", 2)], "teacher")
    expected = made(**inputs, output_hidden_states=True)
    with torch.no_grad(), Operators() as operators:
        shown = capture(inputs)[1]
    assert torch.equal(shown.logits, expected.logits)
    assert torch.equal(shown.hidden[2], expected.hidden_states[2])
    assert not any(operators.names[name] for name in WAITS)


def test_a_wrapper_in_place_of_the_model_gets_the_mask_as_it_came() -> None:
    made, seen = model("bert"), []

    def wrapper(**given):
        seen.append(given["attention_mask"])
        return made(**given)

    inputs = batch("bert")
    Capture(Anatomy.of(made), [Signal("logits")], "teacher")(inputs, forward=wrapper)
    assert seen[0] is inputs["attention_mask"]
