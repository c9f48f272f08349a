"""Students cut from a teacher's layers: right weights, right configuration, and plain classes when loaded again."""

from __future__ import annotations

import logging
import re

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.families import FAMILIES
from tests.tiny_models import CLASSIFIER, ENCODER_DECODERS, HEADS, LANGUAGE, SPANS, batch, tiny
from tests.tiny_models import FAMILIES as TINY


def outputs(model: PreTrainedModel, inputs: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad():
        output = model(**inputs)
    return [value for value in output.values() if isinstance(value, Tensor)]


def rows(family: str, head: str) -> dict[str, Tensor]:
    inputs = batch(family)
    if family in ENCODER_DECODERS and head != LANGUAGE[family]:
        return {name: inputs[name] for name in ("input_ids", "attention_mask")}
    return inputs


def storages(model: nn.Module) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in model.state_dict().values()}


# --- which layers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pick", "number", "depth", "expected"),
    [
        ("spread", 6, 12, [2, 4, 6, 8, 10, 12]),
        ("spread", 5, 12, [2, 5, 7, 10, 12]),  # 2.4 4.8 7.2 9.6 12
        ("spread", 2, 5, [3, 5]),  # 2.5 rounds up
        ("spread", 4, 6, [2, 3, 5, 6]),  # 1.5 3 4.5 6
        ("uniform", 3, 12, [4, 8, 12]),
        ("first", 3, 12, [1, 2, 3]),
        ("last", 3, 12, [10, 11, 12]),
        ("distilbert", 6, 12, [1, 3, 5, 8, 10, 12]),
        ("spread", 12, 12, list(range(1, 13))),
    ],
)
def test_picks(pick, number, depth, expected):
    teacher = tiny("bert", layers=depth)
    student = students.from_layers(teacher, number, pick)
    blocks = teacher.bert.encoder.layer
    for mine, layer in zip(student.bert.encoder.layer, expected, strict=True):
        theirs = blocks[layer - 1].state_dict()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.state_dict().items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"layers": 4}, "4 layers are asked for, but the teacher has 3"),
        ({"layers": 0}, "0 layers"),
        ({"layers": True}, "True layers"),
        ({"layers": [1, 4]}, "layer 4 does not exist; the teacher's layers are 1 to 3"),
        ({"layers": [0, 1]}, "layer 0 does not exist"),
        ({"layers": [2, 2]}, r"\[2, 2\] must be distinct"),
        ({"layers": [3, 1]}, "increasing order"),
        ({"layers": []}, "at least one"),
        ({"layers": [1.0]}, "whole numbers"),
        ({"layers": 2, "pick": "uniform"}, "3 to be a multiple of 2; use 'spread'"),
        ({"layers": 2, "pick": "distilbert"}, "6 of 12 layers, not 2 of 3"),
        ({"layers": 2, "pick": "middle"}, "unknown pick 'middle'; the picks are spread, uniform"),
        ({"layers": [1, 2], "pick": "last"}, "has nothing to choose"),
        ({"layers": 2, "decoder_layers": 1}, "'bert' has a single stack"),
    ],
)
def test_refusals(arguments, words):
    with pytest.raises(IncompatiblePair, match=words):
        students.from_layers(tiny("bert"), **arguments)


def test_refusals_of_encoder_decoders_name_the_stack():
    teacher = tiny("bart", decoder_layers=1)
    with pytest.raises(
        IncompatiblePair, match=r"from_layers \(decoder\): 3 layers are asked for, but the teacher has 1"
    ):
        students.from_layers(teacher, 3)
    student = students.from_layers(teacher, 3, decoder_layers=1)
    assert (student.config.encoder_layers, student.config.decoder_layers) == (3, 1)


# --- every family ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("family", "head"), HEADS)
def test_all_layers_kept_give_the_teachers_output(family, head):
    teacher, inputs = tiny(family, head), rows(family, head)
    student = students.from_layers(teacher, 3)
    assert type(student) is type(teacher)
    for mine, theirs in zip(outputs(student, inputs), outputs(teacher, inputs), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


@pytest.mark.parametrize("family", TINY)
def test_a_cut_student(family, tmp_path):
    teacher, inputs = tiny(family, layers=4), batch(family)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    depth = teacher.config.num_hidden_layers
    random = torch.get_rng_state()
    student = students.from_layers(teacher, [2, 4])
    assert torch.equal(torch.get_rng_state(), random)
    assert teacher.config.num_hidden_layers == depth
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert not storages(student) & storages(teacher)
    assert all(shape.num_hidden_layers == 2 for shape in Anatomy.of(student).shape.stacks.values())
    check_blocks(student, teacher, [2, 4])
    check_numbers(student)
    expected = outputs(student, inputs)
    student.save_pretrained(tmp_path)
    loaded = getattr(transformers, LANGUAGE[family]).from_pretrained(tmp_path, attn_implementation="eager")
    assert type(loaded) is type(teacher)
    for mine, theirs in zip(outputs(loaded, inputs), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def check_blocks(student: PreTrainedModel, teacher: PreTrainedModel, layers: list[int]) -> None:
    """Blocks are those of the chosen layers, all else is equal by name."""
    path = re.compile(rf"(?<=\b{re.escape(FAMILIES[student.config.model_type].blocks)}\.)\d+")
    theirs = teacher.state_dict()
    layers = [1] if student.config.model_type == "albert" else layers  # one block, which all layers share
    for name, tensor in student.state_dict().items():
        only_first = "relative_attention_bias" in name
        source = name if only_first else path.sub(lambda found: str(layers[int(found.group())] - 1), name)
        assert torch.equal(tensor, theirs[source]), name


def check_numbers(student: PreTrainedModel) -> None:
    for stack in Anatomy.of(student).shape.stacks:
        for number, block in enumerate(Anatomy.of(student).blocks(stack)):
            for module in block.modules():
                assert getattr(module, "layer_idx", number) in (number, None)


GROUPS = {"num_hidden_groups": 2, "inner_group_num": 2}
"""ALBERT of four times two layers: 1 to 4 run the two blocks of the first group twice, 5 to 8 those of the second."""


@pytest.mark.parametrize(
    ("layers", "depth", "groups"),
    [
        ([1, 2, 5, 6], 2, [0, 1]),
        ([3, 4, 7, 8], 2, [0, 1]),
        ([5, 6, 7, 8], 2, [1]),
        ([7, 8], 1, [1]),
        (8, 4, [0, 1]),
    ],
)
def test_layers_that_share_blocks(layers, depth, groups):
    teacher = tiny("albert", layers=4, **GROUPS)
    student = students.from_layers(teacher, layers)
    assert (student.config.num_hidden_layers, student.config.num_hidden_groups) == (depth, len(groups))
    theirs = teacher.albert.encoder.albert_layer_groups
    for mine, group in zip(student.albert.encoder.albert_layer_groups, groups, strict=True):
        assert all(torch.equal(tensor, theirs[group].state_dict()[name]) for name, tensor in mine.state_dict().items())
    states = teacher.albert.encoder.embedding_hidden_mapping_in(
        teacher.albert.embeddings(input_ids=torch.tensor([[5, 6, 7]]))
    )
    for layer in layers if isinstance(layers, list) else range(1, 9):
        states = theirs[(layer - 1) // 4].albert_layers[(layer - 1) % 2](states)
    shown = student.albert(input_ids=torch.tensor([[5, 6, 7]])).last_hidden_state
    torch.testing.assert_close(shown, states, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([1, 2, 3], "3 layers are asked for, but 'albert' runs 2 inner layers at a time; take a multiple of 2"),
        ([2, 3], r"run the shared blocks 0\.albert_layers\.1, 0\.albert_layers\.0, but a student"),
        ([1, 3], "same number of layers from each group"),
        ([1, 2, 5, 6, 7, 8], "same number of layers from each group"),
    ],
)
def test_orders_that_shared_blocks_cannot_run_are_refused(layers, words):
    with pytest.raises(IncompatiblePair, match=words):
        students.from_layers(tiny("albert", layers=4, **GROUPS), layers)


def test_lists_with_one_entry_a_layer_are_cut_along():
    student = students.from_layers(tiny("qwen3", layers=4), [2, 3])
    assert student.config.layer_types == ["sliding_attention", "full_attention"]
    assert [layer.self_attn.sliding_window for layer in student.model.layers] == [4, None]
    student = students.from_layers(tiny("modernbert", layers=4), [2, 4])
    assert student.config.layer_types == ["sliding_attention", "full_attention"]
    assert [layer.attention_type for layer in student.model.layers] == ["sliding_attention", "full_attention"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_a_cut_decoder_generates_with_its_cache(family):
    student, ids = students.from_layers(tiny(family, layers=4), [2, 4]), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        whole = student(input_ids=ids, use_cache=False).logits
        first = student(input_ids=ids[:, :2], use_cache=True)
        cache = first.get("cache", first.get("past_key_values"))
        name = "cache" if "cache" in first else "past_key_values"
        second = student(input_ids=ids[:, 2:], **{name: cache})
    torch.testing.assert_close(second.logits[:, -1], whole[:, -1], rtol=1e-4, atol=1e-5)


def test_stacks_of_different_depth():
    teacher = tiny("t5", layers=4)
    student = students.from_layers(teacher, 3, decoder_layers=[4])
    assert (student.config.num_layers, student.config.num_decoder_layers) == (3, 1)
    query = student.decoder.block[0].layer[0].SelfAttention.q.weight
    assert torch.equal(query, teacher.decoder.block[3].layer[0].SelfAttention.q.weight)
    bias = student.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
    assert torch.equal(bias, teacher.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight)


def test_what_the_first_block_has_no_place_for_is_told(caplog):
    with caplog.at_level(logging.INFO, "hf_distill.students.layers"):
        students.from_layers(tiny("modernbert", layers=4), [2, 4])
    assert [record.getMessage().split()[1] for record in caplog.records] == ["model.layers.1.attn_norm.weight"]


# --- what is kept ---------------------------------------------------------------------------------


def test_configuration_that_is_kept_and_that_is_not():
    labels = {0: "no", 1: "yes", 2: "maybe"}
    teacher = tiny("bert", CLASSIFIER, id2label=labels, label2id={name: i for i, name in labels.items()})
    teacher.config.problem_type = "single_label_classification"
    teacher.config._name_or_path = "/home/someone/teacher"
    student = students.from_layers(teacher, 2)
    assert student.config.id2label == labels
    assert student.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    assert student.config.problem_type == "single_label_classification"
    assert student.config._attn_implementation == teacher.config._attn_implementation
    assert student.config._name_or_path == student.name_or_path == ""
    assert teacher.config._name_or_path == "/home/someone/teacher"
    assert not student.training


def test_a_half_precision_teacher_gives_a_float32_student():
    teacher = tiny("bert", CLASSIFIER).to(torch.bfloat16)
    teacher.config.dtype = torch.bfloat16
    student = students.from_layers(teacher, 2)
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert student.config.dtype == torch.float32
    expected = teacher.bert.encoder.layer[2].output.dense.weight.float()
    assert torch.equal(student.bert.encoder.layer[1].output.dense.weight, expected)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
def test_ties_stay_as_they_are(family, tied):
    teacher = tiny(family, tie_word_embeddings=tied)
    student = students.from_layers(teacher, 2)
    for model in (teacher, student):
        inputs, output = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert (inputs is output) == tied
    assert torch.equal(student.get_output_embeddings().weight, teacher.get_output_embeddings().weight)


def test_weights_that_are_tied_by_the_configuration_alone_stay_apart(tmp_path):
    """As T5 1.1 is loaded: its configuration says tied, its checkpoint holds two matrices."""
    teacher, inputs = tiny("t5"), batch("t5")
    teacher.lm_head.weight = nn.Parameter(teacher.lm_head.weight.detach().flip(0))
    assert teacher.config.tie_word_embeddings
    student = students.from_layers(teacher, 3)
    assert torch.equal(student.lm_head.weight, teacher.lm_head.weight)
    assert student.encoder.embed_tokens.weight is student.shared.weight
    expected = outputs(teacher, inputs)
    for mine, theirs in zip(outputs(student, inputs), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    student.save_pretrained(tmp_path)
    loaded = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path, attn_implementation="eager")
    torch.testing.assert_close(outputs(loaded, inputs)[0], expected[0], rtol=0, atol=0)


def test_generation_settings_are_copied():
    teacher = tiny("gpt2")
    teacher.generation_config.max_new_tokens = 7
    student = students.from_layers(teacher, 2)
    assert student.generation_config.max_new_tokens == 7
    assert student.generation_config is not teacher.generation_config


def test_a_resized_vocabulary_is_kept():
    teacher = tiny("bert")
    teacher.resize_token_embeddings(101, mean_resizing=False)
    assert students.from_layers(teacher, 2).get_output_embeddings().weight.shape == (101, 32)


# --- adapters and other modules -------------------------------------------------------------------


def test_an_adapter_is_merged_into_a_copy():
    plain, inputs = tiny("bert", CLASSIFIER), batch("bert")
    settings = LoraConfig(target_modules=["query", "value"], modules_to_save=["classifier"], init_lora_weights=False)
    teacher = get_peft_model(plain, settings).eval()
    expected, names = outputs(teacher, inputs), list(teacher.state_dict())
    student = students.from_layers(teacher, 3)
    assert type(student) is type(plain)
    torch.testing.assert_close(outputs(student, inputs)[0], expected[0], rtol=1e-4, atol=1e-5)
    assert list(teacher.state_dict()) == names
    torch.testing.assert_close(outputs(teacher, inputs)[0], expected[0], rtol=0, atol=0)
    assert not storages(student) & storages(teacher)


def test_replaced_modules_are_refused():
    teacher = tiny("bert", CLASSIFIER)
    teacher.classifier = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 3))
    with pytest.raises(IncompatiblePair, match=r"builds classifier\.weight .*merge_and_unload"):
        students.from_layers(teacher, 2)


def test_quantized_weights_are_refused():
    teacher = tiny("bert", SPANS)
    teacher.is_quantized = True
    with pytest.raises(IncompatiblePair, match="quantized"):
        students.from_layers(teacher, 2)


def test_a_family_without_a_row_is_refused():
    config = transformers.RoFormerConfig(
        vocab_size=96,
        hidden_size=32,
        embedding_size=16,
        num_attention_heads=4,
        num_hidden_layers=2,
        intermediate_size=48,
    )
    with pytest.raises(IncompatiblePair, match="'roformer' has no row"):
        students.from_layers(transformers.RoFormerModel(config), 1)


def test_a_block_that_computes_by_its_number_stays_where_it_is() -> None:
    """GPT-2's attention divided by the number of its layer: block 2 as block 1 would have twice the scores."""
    config = GPT2Config(vocab_size=64, n_embd=16, n_layer=4, n_head=2, n_positions=16, bos_token_id=1, eos_token_id=2)
    config.scale_attn_by_inverse_layer_idx = True
    teacher = GPT2LMHeadModel(config).eval()
    with pytest.raises(IncompatiblePair, match=r"scale_attn_by_inverse_layer_idx.*layer 2 would get another"):
        students.from_layers(teacher, layers=2, pick="uniform")
    ids = torch.arange(3, 11)[None]
    student = students.from_layers(teacher, layers=2, pick="first")
    states = teacher(ids, output_hidden_states=True).hidden_states[2]
    expected = teacher.lm_head(teacher.transformer.ln_f(states))
    torch.testing.assert_close(student(ids).logits, expected, rtol=0, atol=1e-6)
