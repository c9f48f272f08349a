"""What a capture shows, what it registers, and how it behaves while a model trains."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BatchEncoding

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.capture import Capture
from hf_distill.errors import DistillationError, IncompatiblePair
from tests.tiny_models import CLASSIFIER, FAMILIES, SPANS, batch, tiny

LOGITS = frozenset({Signal("logits")})
INNER = frozenset({Signal("hidden", 2), Signal("queries", 2), Signal("scores", 3), Signal("final")})


def capture_of(model: nn.Module, signals: frozenset[Signal], role: str = "student") -> Capture:
    return Capture(Anatomy.of(model), signals, role)


def hooks(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if module._forward_hooks}


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def inner_loss(capture: Capture, inputs: dict[str, Tensor]) -> Tensor:
    _, shown = capture(inputs)
    return (
        shown.hidden[2].pow(2).sum() + shown.queries[2].sin().sum() + shown.scores[3].cos().sum() + shown.final.sum()
    )


# --- what it shows --------------------------------------------------------------------------------


def test_logits_alone_register_no_hook():
    model, inputs = tiny("bert", CLASSIFIER), batch("bert")
    output, shown = capture_of(model, LOGITS)(inputs)
    assert hooks(model) == set()
    torch.testing.assert_close(shown.logits, model(**inputs).logits, rtol=0, atol=0)
    assert shown.logits is output.logits
    assert shown.signals() == LOGITS
    assert shown.mask is inputs["attention_mask"]


def test_only_what_is_read_is_hooked_and_close_removes_it():
    model = tiny("bert", CLASSIFIER)
    capture = capture_of(
        model, frozenset({Signal("hidden", 2), Signal("queries", 1), Signal("scores", 1), Signal("logits")})
    )
    attention = "bert.encoder.layer.0.attention.self"
    assert hooks(model) == {"bert.encoder.layer.1", f"{attention}.query", f"{attention}.key"}
    assert capture(batch("bert"))[1].signals() == set(capture.taps.taps)
    capture.close()
    assert hooks(model) == set()


def test_other_columns_and_labels_stay_with_the_caller():
    model, inputs = tiny("distilbert", CLASSIFIER), batch("distilbert")
    more = inputs | {
        "labels": torch.tensor([0, 1, 2]),
        "token_type_ids": torch.zeros_like(inputs["input_ids"]),
        "length": torch.tensor([11, 7, 4]),
    }
    output, shown = capture_of(model, LOGITS)(more)
    assert output.loss is None
    torch.testing.assert_close(shown.logits, model(**inputs).logits, rtol=0, atol=0)


def test_a_batch_encoding_is_a_batch():
    model, inputs = tiny("bert", CLASSIFIER), batch("bert")
    _, shown = capture_of(model, LOGITS)(BatchEncoding(inputs))
    torch.testing.assert_close(shown.logits, model(**inputs).logits, rtol=0, atol=0)


def test_without_a_mask_every_token_is_real():
    _, shown = capture_of(tiny("bert", CLASSIFIER), LOGITS)({"input_ids": batch("bert")["input_ids"]})
    assert torch.equal(shown.mask, torch.ones(3, 11, dtype=torch.long))


def test_spans():
    model, inputs = tiny("bert", SPANS), batch("bert")
    positions = {"start_positions": torch.tensor([1, 1, 1]), "end_positions": torch.tensor([2, 2, 2])}
    output, shown = capture_of(model, frozenset({Signal("start_logits"), Signal("end_logits")}))(inputs | positions)
    reference = model(**inputs)
    assert output.loss is None
    torch.testing.assert_close(shown.start_logits, reference.start_logits, rtol=0, atol=0)
    torch.testing.assert_close(shown.end_logits, reference.end_logits, rtol=0, atol=0)


def test_models_that_return_tuples_by_configuration():
    model, inputs = tiny("bert", CLASSIFIER), batch("bert")
    expected = model(**inputs).logits
    model.config.return_dict = False
    _, shown = capture_of(model, LOGITS | {Signal("final")})(inputs)
    torch.testing.assert_close(shown.logits, expected, rtol=0, atol=0)


def test_a_decoder_teacher_builds_no_cache():
    model = tiny("llama")
    model.config.use_cache = True
    output, _ = capture_of(model, LOGITS, "teacher")(batch("llama"))
    assert [name for name, value in output.items() if value is not None] == ["logits"]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_decoder_inputs_come_from_the_labels(family):
    model, inputs = tiny(family), batch(family)
    labels = torch.tensor([[5, 6, 7, 2], [8, 2, -100, -100], [9, 4, 2, -100]])
    encoder_inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    signals = LOGITS | {Signal("hidden", 1, "encoder"), Signal("hidden", 1, "decoder")}
    output, shown = capture_of(model, signals)(encoder_inputs | {"labels": labels})
    start, pad = model.config.decoder_start_token_id, model.config.pad_token_id
    shifted = torch.tensor([[start, 5, 6, 7], [start, 8, 2, pad], [start, 9, 4, 2]])
    reference = model(**encoder_inputs, decoder_input_ids=shifted)
    torch.testing.assert_close(shown.logits, reference.logits, rtol=0, atol=0)
    assert output.loss is None
    assert torch.equal(shown.decoder.mask, labels != -100)
    assert shown.mask is shown.decoder.mask
    assert shown.encoder.mask is inputs["attention_mask"]
    assert shown.encoder.hidden[1].shape == (3, 11, 32)
    assert shown.decoder.hidden[1].shape == (3, 4, 32)


def test_masks_of_given_decoder_inputs():
    model, inputs = tiny("t5"), batch("t5")
    _, shown = capture_of(model, LOGITS)(inputs)
    assert shown.decoder.mask is inputs["decoder_attention_mask"]
    inputs.pop("decoder_attention_mask")
    _, shown = capture_of(model, LOGITS)(inputs)
    assert torch.equal(shown.decoder.mask, torch.ones(3, 6, dtype=torch.long))


def test_a_classifier_that_shifts_its_own_inputs_shares_their_mask():
    model, inputs = tiny("bart", CLASSIFIER), batch("bart")
    encoder_inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    _, shown = capture_of(model, LOGITS)(encoder_inputs | {"labels": torch.tensor([0, 1, 2])})
    torch.testing.assert_close(shown.logits, model(**encoder_inputs).logits, rtol=0, atol=0)
    assert shown.decoder.mask is inputs["attention_mask"]


def test_signals_the_model_lacks_are_refused_at_once():
    model = tiny("bert", CLASSIFIER)
    with pytest.raises(IncompatiblePair, match="layer 9 does not exist"):
        capture_of(model, frozenset({Signal("hidden", 9)}))


def test_one_capture_for_each_of_two_uses_of_a_model():
    model = tiny("bert", CLASSIFIER)
    first, second = (
        capture_of(model, frozenset({Signal("hidden", 1)})),
        capture_of(model, frozenset({Signal("hidden", 2)})),
    )
    assert first(batch("bert"))[1].signals() == {Signal("hidden", 1)}
    assert second(batch("bert"))[1].signals() == {Signal("hidden", 2)}


# --- runs that would go wrong quietly -------------------------------------------------------------


def test_calls_outside_its_own_forward_are_ignored():
    model, inputs = tiny("bert", CLASSIFIER), batch("bert")
    capture = capture_of(model, INNER)
    model(**{name: value[:1] for name, value in inputs.items()})
    assert capture(inputs)[1].final.shape == (3, 11, 32)


def test_a_forward_that_runs_another_model_is_an_error():
    capture = capture_of(tiny("bert", CLASSIFIER), INNER)
    with pytest.raises(DistillationError, match=r"student: .* ran 0 times in this forward pass instead of 1"):
        capture(batch("bert"), forward=tiny("bert", CLASSIFIER))


def test_a_forward_that_runs_the_model_twice_is_an_error():
    model = tiny("bert", CLASSIFIER)
    capture = capture_of(model, INNER)
    with pytest.raises(DistillationError, match="ran 2 times"):
        capture(batch("bert"), forward=lambda **inputs: [model(**inputs) for _ in range(2)][1])


def test_dropped_layers_are_an_error():
    model = tiny("bart", encoder_layerdrop=1.0).train()
    capture = capture_of(model, frozenset({Signal("hidden", 1, "encoder")}))
    with pytest.raises(DistillationError, match=r"encoder.hidden\[1\] .* set layerdrop to 0"):
        capture(batch("bart"))


def test_nothing_is_held_after_a_failure():
    model, inputs = tiny("bert", CLASSIFIER), batch("bert")
    capture = capture_of(model, INNER)

    def broken(**inputs: Tensor) -> None:
        model(**inputs)
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        capture(inputs, forward=broken)
    assert not any(capture.taps._seen.values())
    assert not capture.taps.recording
    torch.testing.assert_close(capture(inputs)[0].logits, model(**inputs).logits, rtol=0, atol=0)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in ("deberta-v2", "albert", "mpnet", "t5", "bart")])
def test_activation_checkpointing_changes_nothing(family):
    model, inputs = tiny(family).train(), batch(family)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    capture = capture_of(model, INNER)
    inner_loss(capture, inputs).backward()
    expected = gradients(model)
    enable_checkpointing(model, use_reentrant=False)
    inner_loss(capture, inputs).backward()
    found = gradients(model)
    assert found.keys() == expected.keys()
    assert len(expected) > 10
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient)
    assert not any(capture.taps._seen.values())


def enable_checkpointing(model, use_reentrant: bool) -> None:
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")  # torch, of what is refused
def test_reentrant_checkpointing_is_refused():
    model = tiny("bert", CLASSIFIER).train()
    enable_checkpointing(model, use_reentrant=True)
    capture = capture_of(model, frozenset({Signal("queries", 2), Signal("logits")}))
    with pytest.raises(DistillationError, match=r"student: queries\[2\] carries no gradient.*use_reentrant=False"):
        capture(batch("bert"))
    capture_of(model, frozenset({Signal("queries", 2)}), "teacher")(batch("bert"))
    with torch.no_grad():
        capture(batch("bert"))
    model.eval()
    capture(batch("bert"))


def test_what_is_frozen_below_needs_no_gradient():
    model = tiny("bert", CLASSIFIER).train()
    model.bert.embeddings.requires_grad_(False)
    _, shown = capture_of(model, frozenset({Signal("hidden", 0), Signal("hidden", 1)}))(batch("bert"))
    assert not shown.hidden[0].requires_grad
    assert shown.hidden[1].requires_grad


def test_a_student_whose_captures_train_nothing_is_refused():
    model = tiny("bert", CLASSIFIER).train()
    model.bert.requires_grad_(False)
    with pytest.raises(DistillationError, match=r"hidden\[1\], hidden\[2\] carry no gradient"):
        capture_of(model, frozenset({Signal("hidden", 1), Signal("hidden", 2)}))(batch("bert"))
    capture_of(model, frozenset({Signal("hidden", 1), Signal("logits")}))(batch("bert"))


def test_an_adapter_trains_through_its_captures():
    adapter = LoraConfig(target_modules=["query"], init_lora_weights=False)
    model = get_peft_model(tiny("bert", CLASSIFIER), adapter).train()
    capture = capture_of(model, frozenset({Signal("queries", 1), Signal("embeddings")}))
    _, shown = capture(batch("bert"))
    shown.queries[1].sum().backward()
    trained = gradients(model)
    assert {name.split("layer.")[1][0] for name in trained} == {"0"}
    assert all("lora_" in name for name in trained)


class Root(nn.Module):
    """A module that calls a capture in its forward, as the engine's root does."""

    def __init__(self, model: nn.Module, capture: Capture) -> None:
        super().__init__()
        self.model = model
        self.capture = capture

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return inner_loss(self.capture, inputs)


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_under_torch_compile(family):
    model, inputs = tiny(family), batch(family)
    capture = capture_of(model, INNER)
    inner_loss(capture, inputs).backward()
    expected = gradients(model)
    root = torch.compile(Root(model, capture), backend="eager")
    for _ in range(2):
        root(inputs).backward()
        found = gradients(model)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4)


def test_a_wrapper_is_called_in_place_of_the_model():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module) -> None:
            super().__init__()
            self.module = module
            self.calls = 0

        def forward(self, *args, **kwargs):
            self.calls += 1
            return self.module(*args, **kwargs)

    model, inputs = tiny("bert", CLASSIFIER), batch("bert")
    capture, wrapper = capture_of(model, INNER), Wrapper(model)
    _, shown = capture(inputs, forward=wrapper)
    assert wrapper.calls == 1
    torch.testing.assert_close(shown.final, capture(inputs)[1].final, rtol=0, atol=0)
