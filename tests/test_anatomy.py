"""Every row of the family table against what the models say of themselves."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RoFormerConfig,
    RoFormerForMaskedLM,
    T5EncoderModel,
)

from hf_distill import reach
from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy, Shape, StackShape
from hf_distill.capture import Capture
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.families import FAMILIES
from hf_distill.taps.recording import Taps
from hf_distill.taps.signals import tap_of
from tests.tiny_models import BARE, CLASSIFIER, ENCODER_DECODERS, ENCODERS, FURTHER, HEADS, SPANS, TOKENS, batch, tiny
from tests.tiny_models import FAMILIES as TINY

STACKS = [(family, "") for family in TINY if family not in ENCODER_DECODERS]
STACKS += [(family, stack) for family in ENCODER_DECODERS for stack in ("encoder", "decoder")]


def captured(model: nn.Module, inputs: dict[str, Tensor], *signals: Signal):
    capture = Capture(Anatomy.of(model), frozenset(signals), "teacher")
    _, activations = capture(inputs)
    capture.close()
    return activations


def test_every_family_of_the_table_is_tested():
    assert set(FAMILIES) == {*TINY, *FURTHER}


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_hidden_states_equal_the_models_own(family, stack):
    model, inputs = tiny(family), batch(family)
    layers = [Signal("hidden", layer, stack) for layer in range(4)]
    shown = captured(model, inputs, *layers, Signal("final", None, stack), Signal("embeddings", None, stack)).stack(
        stack
    )
    output = model(**inputs, output_hidden_states=True)
    states = output[f"{stack}_hidden_states" if stack else "hidden_states"]
    for layer in range(3):
        torch.testing.assert_close(shown.hidden[layer], states[layer], rtol=0, atol=0)
    torch.testing.assert_close(shown.final, states[3], rtol=0, atol=0)
    torch.testing.assert_close(shown.embeddings, states[0], rtol=0, atol=0)


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_the_last_hidden_state_is_raw(family, stack):
    model, inputs = tiny(family), batch(family)
    outputs: list[Tensor] = []
    block = Anatomy.of(model).blocks(stack)[2]
    handle = block.register_forward_hook(lambda module, args, output: outputs.append(output))
    shown = captured(model, inputs, Signal("hidden", 3, stack), Signal("final", None, stack)).stack(stack)
    handle.remove()
    raw = outputs[-1] if isinstance(outputs[-1], Tensor) else outputs[-1][0]
    torch.testing.assert_close(shown.hidden[3], raw, rtol=0, atol=0)
    normed = family in ("modernbert", "gpt2", "llama", "qwen3", "t5")
    assert torch.equal(shown.hidden[3], shown.final) != normed


def eager_attentions(model: PreTrainedModel, inputs: dict[str, Tensor], stack: str) -> list[Tensor]:
    output = model(**inputs, output_attentions=True)
    return list(output[f"{stack}_attentions" if stack else "attentions"])


@pytest.mark.parametrize(("family", "stack"), [(f, s) for f, s in STACKS if f != "deberta-v2"])
def test_scores_give_the_eager_attentions(family, stack):
    model, inputs = tiny(family), batch(family)
    shown = captured(model, inputs, *[Signal("scores", layer, stack) for layer in (1, 2, 3)]).stack(stack)
    real = shown.mask.bool()
    for layer, attention in enumerate(eager_attentions(model, inputs, stack), start=1):
        masked = attention == 0
        assert masked.any()
        assert attention.std() > 0.01
        mine = torch.softmax(shown.scores[layer].masked_fill(masked, -torch.inf), dim=-1)
        torch.testing.assert_close(mine.transpose(1, 2)[real], attention.transpose(1, 2)[real], rtol=0, atol=3e-6)


@pytest.mark.parametrize("family", ["bert", "llama", "gemma2", "t5"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_rounds_queries_and_keys_and_not_their_scores(family, dtype):
    """Of products in 16 bits a score would be off by 0.05, and in float16 beyond 65504 before it is scaled."""
    model, inputs = tiny(family), batch(family)
    stack = "encoder" if family == "t5" else ""
    fields = ("scores", "rotated_queries", "rotated_keys")
    if family == "bert":
        with torch.no_grad():
            attention = model.bert.encoder.layer[0].attention.self
            for projection in (attention.query, attention.key):
                projection.bias += 400.0
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        shown = captured(model, inputs, *[Signal(field, 1, stack) for field in fields]).stack(stack)
    assert shown.scores[1].dtype == torch.float32
    shape = Anatomy.of(model).shape.stack(stack)
    query, key = (shown.rotated_queries[1].double(), shown.rotated_keys[1].double())
    query = query.unflatten(-1, (shape.num_attention_heads, -1)).transpose(1, 2)
    key = key.unflatten(-1, (shape.num_key_value_heads, -1)).transpose(1, 2)
    key = key.repeat_interleave(shape.num_attention_heads // shape.num_key_value_heads, 1)
    expected = query @ key.mT
    if family == "gemma2":
        expected = 2.0 * torch.tanh(expected / 9**0.5 / 2.0)
    elif family == "t5":
        first = model.encoder.block[0].layer[0].SelfAttention
        expected = expected + first.compute_bias(11, 11).double()
    else:
        expected = expected / shape.head_size**0.5
    torch.testing.assert_close(shown.scores[1].double(), expected, rtol=1e-5, atol=1e-5)


def test_scores_of_float64_stay_so():
    shown = captured(tiny("bert").double(), batch("bert"), Signal("scores", 1))
    assert shown.scores[1].dtype == torch.float64


def test_scores_do_not_depend_on_the_attention_function_nor_on_dropout():
    model, inputs, signal = tiny("llama"), batch("llama"), Signal("scores", 1)
    expected = captured(model, inputs, signal).scores[1]
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(captured(model, inputs, signal).scores[1], expected)
    model = tiny("bert", attention_probs_dropout_prob=0.5, hidden_dropout_prob=0.0)
    expected = captured(model, inputs, signal).scores[1]
    torch.testing.assert_close(captured(model.train(), inputs, signal).scores[1], expected)


@pytest.mark.parametrize(("family", "stack"), STACKS)
def test_projections_give_the_block_its_attention(family, stack):
    """Attention computed by hand from the captured values must be what the output projection of the block reads."""
    model, inputs = tiny(family), batch(family)
    shape = Anatomy.of(model).shape.stack(stack)
    shown = captured(
        model, inputs, Signal("values", 2, stack), Signal("queries", 2, stack), Signal("keys", 2, stack)
    ).stack(stack)
    width = shape.head_size
    assert shown.queries[2].shape[-1] == shape.num_attention_heads * width
    assert shown.keys[2].shape == shown.values[2].shape
    assert shown.values[2].shape[-1] == shape.num_key_value_heads * width
    attention = eager_attentions(model, inputs, stack)[1]
    values = shown.values[2].unflatten(-1, (shape.num_key_value_heads, width)).transpose(1, 2)
    values = values.repeat_interleave(shape.num_attention_heads // shape.num_key_value_heads, dim=1)
    context = (attention @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(
        context, read_by_output_projection(model, inputs, stack, context.shape), rtol=0, atol=1e-5
    )


OUTPUT_PROJECTIONS = ("output.dense", "out_lin", "Wo", "c_proj", "o_proj", "o", "out_proj", "dense")


def read_by_output_projection(
    model: PreTrainedModel, inputs: dict[str, Tensor], stack: str, shape: torch.Size
) -> Tensor:
    anatomy = Anatomy.of(model)
    block = anatomy.blocks(stack)[1]
    owner = block.get_submodule(FAMILIES[anatomy.shape.family].attention.removesuffix(".self"))
    name = next(path for path in OUTPUT_PROJECTIONS if hasattr(owner, path.split(".")[0]))
    seen: list[Tensor] = []
    handle = owner.get_submodule(name).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(**inputs)
    handle.remove()
    return seen[1 if family_shares_blocks(anatomy) else 0].reshape(shape)


def family_shares_blocks(anatomy: Anatomy) -> bool:
    return len(set(anatomy.blocks(next(iter(anatomy.shape.stacks))))) == 1


def test_queries_are_read_before_rotation_and_after_the_query_norm():
    model, inputs = tiny("qwen3"), batch("qwen3")
    attention = model.model.layers[0].self_attn
    shown = captured(model, inputs, Signal("queries", 1), Signal("hidden", 0))
    states = model.model.layers[0].input_layernorm(shown.hidden[0])
    expected = attention.q_norm(attention.q_proj(states).unflatten(-1, (4, 16))).flatten(2)
    torch.testing.assert_close(shown.queries[1], expected)


def test_deberta_shares_its_key_projection_with_the_positions():
    model, inputs = tiny("deberta-v2"), batch("deberta-v2")
    attention = model.deberta.encoder.layer[1].attention.self
    shown = captured(model, inputs, Signal("queries", 2), Signal("keys", 2), Signal("values", 2), Signal("hidden", 1))
    torch.testing.assert_close(shown.queries[2], attention.query_proj(shown.hidden[1]))
    torch.testing.assert_close(shown.keys[2], attention.key_proj(shown.hidden[1]))
    plain = tiny("deberta-v2", share_att_key=False)
    expected = plain.deberta.encoder.layer[0].attention.self.key_proj
    shown = captured(plain, inputs, Signal("keys", 1), Signal("hidden", 0))
    torch.testing.assert_close(shown.keys[1], expected(shown.hidden[0]))


ALBERT = {"num_hidden_groups": 2, "inner_group_num": 2}
"""Four layers: twice the two blocks of the first group, twice those of the second, eight runs in all."""


def test_every_run_of_a_shared_block_is_a_layer():
    model, inputs = tiny("albert", layers=4, **ALBERT), batch("albert")
    groups = model.albert.encoder.albert_layer_groups
    first, second = ([*group.albert_layers] for group in groups)
    assert Anatomy.of(model).blocks() == [*first, *first, *second, *second]
    fields = ("hidden", "queries", "scores", "values")
    shown = captured(model, inputs, *[Signal(field, layer) for field in fields for layer in range(1, 9)])
    output = model(**inputs, output_hidden_states=True, output_attentions=True)
    real = inputs["attention_mask"].bool()
    for layer, attention in enumerate(output.attentions, start=1):
        torch.testing.assert_close(shown.hidden[layer], output.hidden_states[layer], rtol=0, atol=0)
        block = [*first, *first, *second, *second][layer - 1]
        before = output.hidden_states[layer - 1]
        torch.testing.assert_close(shown.queries[layer], block.attention.query(before), rtol=0, atol=0)
        torch.testing.assert_close(shown.values[layer], block.attention.value(before), rtol=0, atol=0)
        mine = torch.softmax(shown.scores[layer].masked_fill(attention == 0, -torch.inf), dim=-1)
        torch.testing.assert_close(mine.transpose(1, 2)[real], attention.transpose(1, 2)[real], rtol=0, atol=3e-6)


def test_only_the_run_that_is_read_is_kept():
    model, inputs = tiny("albert", layers=4), batch("albert")
    taps = Taps(Anatomy.of(model), [Signal("queries", 3)], "test")
    taps.recording = True
    model(**inputs)
    assert [[value is not None for value in seen] for seen in taps._seen.values()] == [[False, False, True, False]]
    taps.close()


@pytest.mark.parametrize("field", ["queries", "hidden", "scores"])
def test_gradients_pass_through_the_run_that_is_read_and_those_before(field):
    """The derivative by a shared weight, against central differences, in the second of three runs."""
    model, inputs = tiny("albert").double(), batch("albert")
    weight = model.albert.encoder.albert_layer_groups[0].albert_layers[0].attention.query.weight
    signal = Signal(field, 2)

    def value() -> Tensor:
        shown = captured_with_gradient(model, inputs, signal)
        return getattr(shown, field)[2].square().mean()

    value().backward()
    with torch.no_grad():
        for place in ((0, 0), (5, 17)):
            weight[place] += 1e-5
            above = value()
            weight[place] -= 2e-5
            below = value()
            weight[place] += 1e-5
            assert float((above - below) / 2e-5) == pytest.approx(float(weight.grad[place]), rel=1e-4, abs=1e-8)


def captured_with_gradient(model: PreTrainedModel, inputs: dict[str, Tensor], *signals: Signal):
    capture = Capture(Anatomy.of(model), frozenset(signals), "student")
    _, activations = capture(inputs)
    capture.close()
    return activations


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_head_gives_the_models_logits(family, head):
    model, inputs = tiny(family, head), batch(family)
    if family in ENCODER_DECODERS and head != "AutoModelForSeq2SeqLM":
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    stack = "decoder" if len(Anatomy.of(model).shape.stacks) == 2 else ""
    shown = captured(model, inputs, Signal("final", None, stack)).stack(stack)
    anatomy = Anatomy.of(model)
    output = model(**inputs)
    logits = torch.stack([output.start_logits, output.end_logits], dim=-1) if head == SPANS else output.logits
    torch.testing.assert_close(anatomy.head(shown.final, inputs), logits, rtol=0, atol=0)
    assert anatomy.shape.num_logits == logits.shape[-1]


@pytest.mark.parametrize("family", ["bert", "electra", "albert", "mobilebert"])
def test_pretraining_heads(family):
    model, inputs = tiny(family, "AutoModelForPreTraining"), batch(family)
    shown = captured(model, inputs, Signal("final"), Signal("logits"))
    output = model(**inputs)
    logits = output.logits if family == "electra" else output.prediction_logits
    torch.testing.assert_close(shown.logits, logits, rtol=0, atol=0)
    torch.testing.assert_close(Anatomy.of(model).head(shown.final), logits, rtol=0, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_t5_scales_only_a_tied_head(tied):
    model, inputs = tiny("t5", tie_word_embeddings=tied), batch("t5")
    final = captured(model, inputs, Signal("final", None, "decoder")).decoder.final
    torch.testing.assert_close(Anatomy.of(model).head(final), model(**inputs).logits, rtol=0, atol=0)


def test_deberta_head_of_either_kind():
    for legacy in (True, False):
        model, inputs = tiny("deberta-v2", legacy=legacy), batch("deberta-v2")
        final = captured(model, inputs, Signal("final")).final
        torch.testing.assert_close(Anatomy.of(model).head(final), model(**inputs).logits, rtol=0, atol=0)
        assert Anatomy.of(model).shape.num_logits == 96


def test_modernbert_mean_pooling_needs_the_mask():
    model, inputs = tiny("modernbert", CLASSIFIER, classifier_pooling="mean"), batch("modernbert")
    final = captured(model, inputs, Signal("final")).final
    torch.testing.assert_close(Anatomy.of(model).head(final, inputs), model(**inputs).logits, rtol=0, atol=0)
    with pytest.raises(DistillationError, match="needs attention_mask"):
        Anatomy.of(model).head(final)


@pytest.mark.parametrize("family", ["bert", "albert", "mpnet", "mobilebert"])
def test_pooled_is_what_the_pooler_gives(family):
    model, inputs = tiny(family, BARE), batch(family)
    shown = captured(model, inputs, Signal("pooled"), Signal("final"))
    output = model(**inputs)
    torch.testing.assert_close(shown.pooled, output.pooler_output, rtol=0, atol=0)
    torch.testing.assert_close(shown.final, output.last_hidden_state, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["roberta", "distilbert", "modernbert", "gpt2", "bart"])
def test_a_model_without_pooler_says_so(family):
    with pytest.raises(IncompatiblePair, match=r"pooled: .* has no pooler"):
        tap_of(Anatomy.of(tiny(family)), Signal("pooled"))


def test_shapes():
    assert Anatomy.of(tiny("qwen3")).shape == Shape("qwen3", {"": StackShape(3, 32, 4, 2, 16, True, 48)}, 96, 96, 40)
    assert Anatomy.of(tiny("mobilebert", CLASSIFIER)).shape == Shape(
        "mobilebert", {"": StackShape(3, 32, 2, 2, 8, False, 48)}, 3, 96, 40
    )
    assert Anatomy.of(tiny("t5")).shape == Shape(
        "t5",
        {"encoder": StackShape(3, 32, 4, 4, 16, False), "decoder": StackShape(3, 32, 4, 4, 16, True)},
        96,
        96,
        None,
    )
    assert Anatomy.of(tiny("bert", BARE)).shape.num_logits == 0
    assert Anatomy.of(tiny("bart")).shape.stack("decoder").causal
    assert not Anatomy.of(tiny("bart")).shape.stack("encoder").causal


@pytest.mark.parametrize("family", [f for f in TINY if f not in ("modernbert", "llama", "qwen3", "t5", "deberta-v2")])
def test_max_length_is_the_longest_that_runs(family):
    model = tiny(family)
    longest = Anatomy.of(model).shape.max_length
    assert longest == (38 if family in ("roberta", "mpnet") else 40)
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, longest + 1), 5))


@pytest.mark.parametrize(
    ("rope", "context"),
    [
        ({"rope_type": "default"}, 40),
        ({"rope_type": "linear", "factor": 2.0}, 80),
        ({"rope_type": "dynamic", "factor": 4.0}, 160),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 40}, 160),
        ({"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 20}, 40),
        (
            {
                "rope_type": "llama3",
                "factor": 2.0,
                "original_max_position_embeddings": 20,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
            40,
        ),
    ],
)
def test_rotary_positions_end_where_the_model_was_made_for(rope, context):
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=40,
        rope_parameters={"rope_theta": 10000.0, **rope},
    )
    assert Anatomy.of(LlamaForCausalLM(config)).shape.max_length == context


@pytest.mark.parametrize("family", ["modernbert", "llama", "qwen3", "gemma2"])
def test_a_context_is_known_for_rotary_families(family):
    model = tiny(family)
    assert Anatomy.of(model).shape.max_length == model.config.max_position_embeddings


def test_encoder_of_an_encoder_decoder_is_a_single_stack():
    model = T5EncoderModel(tiny("t5").config).eval()
    shown = captured(model, {"input_ids": batch("t5")["input_ids"]}, Signal("hidden", 3), Signal("final"))
    assert shown.hidden[3].shape == shown.final.shape == (3, 11, 32)


def test_decoder_of_bart_alone():
    model, inputs = tiny("bart", "AutoModelForCausalLM"), batch("bart")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    shown = captured(model, inputs, Signal("final"), Signal("hidden", 1), Signal("logits"))
    output = model(**inputs, output_hidden_states=True)
    torch.testing.assert_close(shown.hidden[1], output.hidden_states[1], rtol=0, atol=0)
    torch.testing.assert_close(Anatomy.of(model).head(shown.final), output.logits, rtol=0, atol=0)


# --- what is not reached --------------------------------------------------------------------------

READS = [
    ("hidden", 0), ("hidden", 2), ("hidden", 3), ("queries", 2), ("keys", 2), ("values", 3), ("final", None),
    ("logits", None),
]  # fmt: skip


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize(("field", "layer"), READS)
def test_unreached_are_the_parameters_without_gradient(family, field, layer):
    model, inputs = tiny(family), batch(family)
    stack = "" if field == "logits" or family not in ENCODER_DECODERS else "decoder"
    signal = Signal(field, layer, stack)
    unreached = {name for name, _ in reach.unreached(Anatomy.of(model), frozenset({signal}))}
    shown = captured(model, inputs, signal).stack(stack)
    tensor = getattr(shown, field) if layer is None else getattr(shown, field)[layer]
    (tensor * torch.randn_like(tensor)).sum().backward()
    assert unreached == {name for name, parameter in model.named_parameters() if parameter.grad is None}
    if field == "logits":
        assert all("pooler" in name or family == "t5" for name in unreached)


def test_unreached_leaves_the_model_as_it_was():
    model = tiny("bert", CLASSIFIER)
    model.bert.encoder.layer[1].train()
    model.classifier.weight.requires_grad_(False)
    kept = torch.ones_like(model.classifier.bias)
    model.classifier.bias.grad = kept
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    state = torch.get_rng_state()
    found = dict(reach.unreached(Anatomy.of(model), [Signal("hidden", 1)]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert model.classifier.bias.grad is kept
    assert model.bert.embeddings.word_embeddings.weight.grad is None
    assert model.bert.encoder.layer[1].training
    assert not model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert "classifier.bias" in found
    assert "classifier.weight" not in found
    assert found["bert.encoder.layer.2.output.dense.weight"] is model.bert.encoder.layer[2].output.dense.weight


# --- adapters -------------------------------------------------------------------------------------


def with_adapter(model: PreTrainedModel, **settings) -> nn.Module:
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **settings))
    return adapted.eval()


def test_captures_of_an_adapter_include_it():
    plain = tiny("bert", CLASSIFIER)
    inputs = batch("bert")
    before = captured(plain, inputs, Signal("queries", 1)).queries[1]
    model = with_adapter(plain, target_modules=["query", "value", "dense"], modules_to_save=["classifier"])
    shown = captured(model, inputs, Signal("queries", 1), Signal("hidden", 0), Signal("final"), Signal("logits"))
    lora = plain.bert.encoder.layer[0].attention.self.query
    assert (shown.queries[1] - before).abs().max() > 0.1
    torch.testing.assert_close(shown.queries[1], lora(shown.hidden[0]))
    merged = model.merge_and_unload().bert.encoder.layer[0].attention.self.query
    torch.testing.assert_close(shown.queries[1], merged(shown.hidden[0]))


@pytest.mark.parametrize(("family", "head"), [("bert", CLASSIFIER), ("t5", ""), ("llama", ""), ("roberta", TOKENS)])
def test_head_below_an_adapter(family, head):
    model, inputs = with_adapter(tiny(family, head), target_modules="all-linear"), batch(family)
    anatomy = Anatomy.of(model)
    stack = "decoder" if family == "t5" else ""
    final = captured(model, inputs, Signal("final", None, stack)).stack(stack).final
    torch.testing.assert_close(anatomy.head(final, inputs), model(**inputs).logits, rtol=0, atol=0)
    assert anatomy.model is model
    assert isinstance(anatomy.base, PreTrainedModel)


def test_final_of_a_bare_model_below_an_adapter():
    model, inputs = with_adapter(tiny("bert", BARE), target_modules=["query"]), batch("bert")
    expected = model(**inputs).last_hidden_state
    torch.testing.assert_close(captured(model, inputs, Signal("final")).final, expected, rtol=0, atol=0)


def test_unreached_adapter_parameters_have_the_models_names():
    model = with_adapter(tiny("bert", CLASSIFIER), target_modules=["query"])
    names = [name for name, _ in reach.unreached(Anatomy.of(model), [Signal("hidden", 2)])]
    prefix = "base_model.model.bert.encoder.layer.2.attention.self.query.lora_"
    assert sorted(names) == [f"{prefix}A.default.weight", f"{prefix}B.default.weight"]


def test_prompt_learning_is_refused():
    model = get_peft_model(tiny("bert", CLASSIFIER), PromptTuningConfig(num_virtual_tokens=3, task_type="SEQ_CLS"))
    with pytest.raises(IncompatiblePair, match="lengthen the input"):
        Anatomy.of(model)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (Signal("hidden", 4), "layer 4 does not exist.*0 to 3"),
        (Signal("queries", 0), "layer 0 does not exist.*1 to 3"),
        (Signal("hidden", 1, "decoder"), "no stack 'decoder', but ''"),
        (Signal("logits"), "BertModel gives no logits"),
    ],
)
def test_absent_signals(signal, words):
    with pytest.raises(IncompatiblePair, match=words):
        tap_of(Anatomy.of(tiny("bert", BARE)), signal)


@pytest.mark.parametrize(
    ("signal", "words"),
    [
        (Signal("hidden"), "needs a layer"),
        (Signal("final", 2), "has no layers"),
        (Signal("input_gradient"), "not read"),
    ],
)
def test_malformed_signals(signal, words):
    with pytest.raises(DistillationError, match=words):
        tap_of(Anatomy.of(tiny("bert")), signal)


def test_encoder_decoders_want_a_stack():
    with pytest.raises(IncompatiblePair, match="'t5' has no single stack of blocks, but 'encoder' and 'decoder'"):
        tap_of(Anatomy.of(tiny("t5")), Signal("hidden", 1))


def test_deberta_has_no_scores():
    with pytest.raises(IncompatiblePair, match=r"scores\[1\]: DisentangledSelfAttention adds position terms"):
        tap_of(Anatomy.of(tiny("deberta-v2")), Signal("scores", 1))


def test_spans_are_no_logits():
    with pytest.raises(IncompatiblePair, match="gives start_logits and end_logits"):
        tap_of(Anatomy.of(tiny("bert", SPANS)), Signal("logits"))


def test_an_unknown_family_serves_its_logits():
    sizes = {"hidden_size": 32, "embedding_size": 16, "num_attention_heads": 4, "intermediate_size": 48}
    model = RoFormerForMaskedLM(RoFormerConfig(vocab_size=96, num_hidden_layers=2, **sizes)).eval()
    inputs = batch("bert")
    anatomy = Anatomy.of(model)
    assert anatomy.shape.family == "roformer"
    assert anatomy.shape.num_logits == 96
    assert not anatomy.shape.stacks
    torch.testing.assert_close(
        captured(model, inputs, Signal("logits")).logits, model(**inputs).logits, rtol=0, atol=0
    )
    for ask in (
        lambda: tap_of(anatomy, Signal("hidden", 1)),
        lambda: anatomy.head(torch.zeros(1, 1, 32)),
        anatomy.blocks,
    ):
        with pytest.raises(IncompatiblePair, match=r"'roformer' has no row in the family table \(bert, roberta"):
            ask()


def test_wrappers_are_refused():
    for wrapped in (nn.Sequential(tiny("bert")), torch.compile(tiny("bert"), backend="eager")):
        with pytest.raises(IncompatiblePair, match="give the model itself"):
            Anatomy.of(wrapped)


def test_accepts_are_the_explicit_parameters():
    accepts = Anatomy.of(tiny("distilbert")).accepts
    assert {"input_ids", "attention_mask", "labels"} <= accepts
    assert not {"token_type_ids", "kwargs", "args", "self"} & accepts
    assert "token_type_ids" in Anatomy.of(tiny("bert")).accepts
    adapted = with_adapter(tiny("distilbert"), target_modules=["q_lin"])
    assert Anatomy.of(adapted).accepts == accepts


class Custom(BertForSequenceClassification):
    """A user's own class around a known head."""


def test_a_derived_class_has_the_head_of_its_parent():
    model, inputs = Custom(tiny("bert", CLASSIFIER).config).eval(), batch("bert")
    final = captured(model, inputs, Signal("final")).final
    torch.testing.assert_close(Anatomy.of(model).head(final), model(**inputs).logits, rtol=0, atol=0)
    assert Anatomy.of(model).shape.num_logits == 3


def test_every_encoder_has_a_row_for_every_head():
    for family in ENCODERS:
        endings = set(FAMILIES[family].heads)
        assert {
            "ForMaskedLM",
            "ForSequenceClassification",
            "ForTokenClassification",
            "ForQuestionAnswering",
        } <= endings
