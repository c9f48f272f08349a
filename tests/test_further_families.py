"""Decoders beside the ones that most tests run on: heads with soft caps and scales, other rotations, other norms."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.chunks import Sizes
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives import Labels, SoftTargets
from hf_distill.teachers import Frozen
from tests import test_vocabulary, tiny_models
from tests.depth.compared import compare, signals
from tests.tiny_models import CLASSIFIER, FURTHER, batch, tiny

CLASSIFIERS = tuple(family for family in FURTHER if family != "cohere")


def captured(model: nn.Module, inputs: dict[str, Tensor], *read: Signal) -> Activations:
    capture = Capture(Anatomy.of(model), frozenset(read), "teacher")
    shown = capture(inputs)[1]
    capture.close()
    return shown


@pytest.mark.parametrize("family", FURTHER)
def test_states_and_attentions_are_the_models_own(family: str) -> None:
    model, inputs = tiny(family), batch(family)
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    layers = [Signal("hidden", layer) for layer in (0, 1, 2)]
    shown = captured(model, inputs, *layers, Signal("scores", 2), Signal("final"))
    for layer in (0, 1, 2):
        assert torch.equal(shown.hidden[layer], output.hidden_states[layer])
    assert torch.equal(shown.final, output.hidden_states[3])
    attention = output.attentions[1]
    masked = shown.scores[2].masked_fill(attention == 0, float("-inf"))
    real = inputs["attention_mask"].bool()[:, None, :, None].expand_as(attention)
    torch.testing.assert_close(masked.softmax(-1)[real], attention[real], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FURTHER)
def test_the_head_gives_the_logits(family: str) -> None:
    model, inputs = tiny(family), batch(family)
    shown = captured(model, inputs, Signal("final"), Signal("logits"))
    torch.testing.assert_close(Anatomy.of(model).head(shown.final), shown.logits, rtol=0, atol=1e-6)
    assert shown.logits.std() > 0.1


@pytest.mark.parametrize("family", FURTHER)
@pytest.mark.parametrize("names", [("hidden.2", "hidden.1"), ("queries.2", "keys.2", "values.2"), ("final",)])
def test_they_run_in_part(family: str, names: tuple[str, ...]) -> None:
    described = compare(tiny(family), signals(*names), batch(family))
    assert ("2 of 3 layers" in described) == (names != ("final",)), described


@pytest.mark.parametrize("family", CLASSIFIERS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_classifiers_run_in_part(family: str, attention: str) -> None:
    if family == "gemma2":
        attention = "eager"  # no other one caps
    model = tiny(family, CLASSIFIER)
    model.set_attn_implementation(attention)
    compare(model, signals("logits"), batch(family))


@pytest.mark.parametrize("family", FURTHER)
def test_a_vocabulary_in_chunks(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    monkeypatch.setattr(Sizes, "of", classmethod(lambda cls, *_: test_vocabulary.SMALL))
    teacher, student = (tiny(family, layers=layers, seed=layers) for layers in (3, 1))
    inputs = {name: value[:1] for name, value in batch(family).items()}
    test_vocabulary.compare(student, teacher, SoftTargets() + Labels(), [{**inputs, "labels": inputs["input_ids"]}])


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("cohere", {"use_qk_norm": True}),
        ("opt", {"do_layer_norm_before": False}),
        ("opt", {"word_embed_proj_dim": 16}),
    ],
)
def test_a_configuration_that_the_row_is_not_of_serves_its_logits(family: str, changes: dict[str, object]) -> None:
    model = tiny_models.tiny(family, **changes)
    assert not Anatomy.of(model).knows_head
    with pytest.raises(IncompatiblePair, match="is not of this configuration"):
        Anatomy.of(model).blocks()
    assert captured(model, batch(family), Signal("logits")).logits.shape[-1] == 96
    assert Frozen(model).head is None
