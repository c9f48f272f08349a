"""DistilBERT students cut from a BERT: the same function as a BERT without token types, a plain class when loaded."""

from __future__ import annotations

import copy
import json
import logging

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import BertLMHeadModel, DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel

from hf_distill import students
from hf_distill.errors import IncompatiblePair
from tests.tiny_models import BARE, CLASSIFIER, LANGUAGE, SPANS, TOKENS, batch, config, tiny

CHOICES = "AutoModelForMultipleChoice"
HEADS = (LANGUAGE["bert"], CLASSIFIER, TOKENS, SPANS, BARE, CHOICES)


def logits(model: PreTrainedModel, head: str) -> list[Tensor]:
    """What the model says of three texts, or of three choices; of a bare model the states. In float64."""
    model, inputs = copy.deepcopy(model).double(), batch("bert")
    if head == CHOICES:
        inputs = {name: value.unsqueeze(0) for name, value in inputs.items()}
    with torch.no_grad():
        output = model(**inputs)
    names = {SPANS: ("start_logits", "end_logits"), BARE: ("last_hidden_state",)}.get(head, ("logits",))
    return [output[name] for name in names]


def without_token_types(teacher: PreTrainedModel) -> PreTrainedModel:
    """The teacher, its embedding of token types set to zero."""
    with torch.no_grad():
        teacher.base_model.embeddings.token_type_embeddings.weight.zero_()
    return teacher


# --- the function ---------------------------------------------------------------------------------


def built_by_hand(teacher: PreTrainedModel, layers: list[int]) -> DistilBertForMaskedLM:
    """A DistilBERT for masked language modelling, every module filled one by one."""
    sizes = {"vocab_size": 96, "dim": 32, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40}
    student = DistilBertForMaskedLM(DistilBertConfig(n_layers=len(layers), **sizes)).eval()
    bert, mine = teacher.bert, student.distilbert

    def fill(module: nn.Module, source: nn.Module) -> None:
        module.load_state_dict(source.state_dict())

    fill(mine.embeddings.word_embeddings, bert.embeddings.word_embeddings)
    fill(mine.embeddings.position_embeddings, bert.embeddings.position_embeddings)
    fill(mine.embeddings.LayerNorm, bert.embeddings.LayerNorm)
    for block, layer in zip(mine.transformer.layer, layers, strict=True):
        source = bert.encoder.layer[layer - 1]
        fill(block.attention.q_lin, source.attention.self.query)
        fill(block.attention.k_lin, source.attention.self.key)
        fill(block.attention.v_lin, source.attention.self.value)
        fill(block.attention.out_lin, source.attention.output.dense)
        fill(block.sa_layer_norm, source.attention.output.LayerNorm)
        fill(block.ffn.lin1, source.intermediate.dense)
        fill(block.ffn.lin2, source.output.dense)
        fill(block.output_layer_norm, source.output.LayerNorm)
    fill(student.vocab_transform, teacher.cls.predictions.transform.dense)
    fill(student.vocab_layer_norm, teacher.cls.predictions.transform.LayerNorm)
    with torch.no_grad():
        student.vocab_projector.bias.copy_(teacher.cls.predictions.bias)
    return student


def test_logits_equal_those_of_a_model_built_by_hand():
    teacher = tiny("bert", layers=12)
    student = students.as_distilbert(teacher)
    (found,), (expected,) = (logits(model, "") for model in (student, built_by_hand(teacher, [1, 3, 5, 8, 10, 12])))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", [head for head in HEADS if head not in (CLASSIFIER, CHOICES)])
def test_it_computes_what_a_shallow_bert_without_token_types_does(head):
    teacher = tiny("bert", head, layers=4)
    student = students.as_distilbert(teacher, [1, 2, 4])
    expected = logits(without_token_types(students.from_layers(teacher, [1, 2, 4])), head)
    for mine, theirs in zip(logits(student, head), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("head", [LANGUAGE["bert"], BARE])
def test_folding_in_the_first_token_type_keeps_the_teachers_function(head):
    teacher = tiny("bert", head)
    expected, position = logits(teacher, head), teacher.base_model.embeddings.position_embeddings.weight.clone()
    student = students.as_distilbert(teacher, 3, "spread", token_types="folded")
    torch.testing.assert_close(logits(student, head)[0], expected[0], rtol=0, atol=1e-6)
    dropped = students.as_distilbert(teacher, 3, "spread")
    assert (logits(dropped, head)[0] - expected[0]).abs().max() > 0.01
    assert torch.equal(teacher.base_model.embeddings.position_embeddings.weight, position)


@pytest.mark.parametrize("head", [CLASSIFIER, CHOICES])
def test_the_classifier_reads_the_poolers_dense_layer_through_a_relu(head):
    teacher = without_token_types(tiny("bert", head))
    student = students.as_distilbert(teacher, 3, "spread")
    states = teacher.bert(**batch("bert")).last_hidden_state
    pooled = torch.relu(teacher.bert.pooler.dense(states[:, 0]))
    expected = teacher.classifier(pooled).double()
    expected = expected.view(1, 3) if head == CHOICES else expected
    torch.testing.assert_close(logits(student, head)[0], expected, rtol=0, atol=1e-4)


# --- the model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", HEADS)
def test_it_is_saved_and_loaded_as_what_it_is(head, tmp_path):
    teacher = tiny("bert", head, layers=4)
    random = torch.get_rng_state()
    student = students.as_distilbert(teacher, 2, "last")
    assert torch.equal(torch.get_rng_state(), random)
    assert type(student).__name__ == type(teacher).__name__.replace("Bert", "DistilBert")
    assert not any("token_type" in name or "pooler" in name for name in student.state_dict())
    student.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["model_type"], saved["architectures"]) == ("distilbert", [type(student).__name__])
    loaded = getattr(transformers, head).from_pretrained(tmp_path)
    assert type(loaded) is type(student)
    for mine, theirs in zip(logits(loaded, head), logits(student, head), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    shared = {tensor.untyped_storage().data_ptr() for tensor in teacher.state_dict().values()}
    assert not any(tensor.untyped_storage().data_ptr() in shared for tensor in student.state_dict().values())
    assert not student.training


def test_settings_are_those_of_the_teacher():
    names = {0: "no", 1: "yes", 2: "maybe"}
    teacher = tiny(
        "bert", CLASSIFIER, id2label=names, label2id={name: i for i, name in names.items()},
        hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.2, hidden_act="relu", classifier_dropout=0.4,
        problem_type="single_label_classification", initializer_range=0.05,
    )  # fmt: skip
    found = students.as_distilbert(teacher, 2, "first").config
    assert (found.n_layers, found.dim, found.n_heads, found.hidden_dim) == (2, 32, 4, 48)
    assert (found.vocab_size, found.max_position_embeddings, found.pad_token_id) == (96, 40, 0)
    assert (found.dropout, found.attention_dropout, found.seq_classif_dropout) == (0.3, 0.2, 0.4)
    assert (found.activation, found.initializer_range) == ("relu", 0.05)
    assert (found.id2label, found.label2id["maybe"]) == (names, 2)
    assert found.problem_type == "single_label_classification"
    assert found._attn_implementation == "eager"
    assert found.dtype == torch.float32


@pytest.mark.parametrize("tied", [True, False])
def test_ties_stay_as_they_are(tied, tmp_path):
    teacher = tiny("bert", tie_word_embeddings=tied)
    student = students.as_distilbert(teacher, 2, "spread")
    assert (student.vocab_projector.weight is student.distilbert.embeddings.word_embeddings.weight) == tied
    assert torch.equal(student.vocab_projector.weight, teacher.cls.predictions.decoder.weight)
    student.save_pretrained(tmp_path)
    loaded = DistilBertForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(loaded.vocab_projector.weight, student.vocab_projector.weight)


def test_half_precision_and_adapters():
    plain = tiny("bert", CLASSIFIER)
    settings = LoraConfig(target_modules=["query", "dense"], modules_to_save=["classifier"], init_lora_weights=False)
    teacher = get_peft_model(plain, settings).eval()
    student = students.as_distilbert(teacher, 3, "spread")
    layer = plain.bert.encoder.layer[1].attention.self.query
    expected = layer.base_layer.weight + layer.get_delta_weight("default")
    torch.testing.assert_close(student.distilbert.transformer.layer[1].attention.q_lin.weight, expected)
    half = tiny("bert").to(torch.bfloat16)
    student = students.as_distilbert(half, 2, "spread", token_types="folded")
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    embeddings = half.bert.embeddings
    expected = embeddings.position_embeddings.weight.float() + embeddings.token_type_embeddings.weight[0].float()
    assert torch.equal(student.distilbert.embeddings.position_embeddings.weight, expected)


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "as_distilbert: 6 layers are asked for, but the teacher has 3"),
        ({"layers": 3}, "pick 'distilbert' takes 6 of 12 layers, not 3 of 3"),
        ({"layers": [1], "pick": "last"}, "so pick 'last' has nothing to choose"),
        ({"layers": 4, "pick": "first"}, "as_distilbert: 4 layers are asked for, but the teacher has 3"),
        ({"layers": [4], "pick": "spread"}, "as_distilbert: layer 4 does not exist"),
        ({"layers": 2, "pick": "spread", "token_types": "kept"}, "token_types must be dropped or folded, not 'kept'"),
    ],
)
def test_refused_arguments(arguments, words):
    with pytest.raises(IncompatiblePair, match=words):
        students.as_distilbert(tiny("bert"), **arguments)


def test_refused_teachers():
    with pytest.raises(
        IncompatiblePair, match="a RobertaForMaskedLM cannot become a DistilBERT; only BertModel, Bert"
    ):
        students.as_distilbert(tiny("roberta"), 2, "spread")
    with pytest.raises(IncompatiblePair, match="a BertLMHeadModel cannot become"):
        students.as_distilbert(BertLMHeadModel(config("bert", is_decoder=True)), 2, "spread")
    with pytest.raises(IncompatiblePair, match="the teacher is a decoder"):
        students.as_distilbert(tiny("bert", BARE, is_decoder=True), 2, "spread")


def test_another_epsilon_is_told(caplog):
    with caplog.at_level(logging.WARNING, "hf_distill.students.distilbert"):
        students.as_distilbert(tiny("bert", layer_norm_eps=1e-5), 2, "spread")
    assert "layer_norm_eps of the teacher is 1e-05, DistilBERT's is 1e-12" in caplog.text
