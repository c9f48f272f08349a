"""MobileBERT, MobileBERT-tiny and IB-BERT: sizes as published, outputs by hand, and what is taken from a teacher."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.nn import functional
from transformers import MobileBertForTokenClassification, PreTrainedModel

from hf_distill import students
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.students.ib_bert import AUTO_CLASSES, IBBertConfig, IBBertForMaskedLM
from tests.tiny_models import CLASSIFIER, LANGUAGE, SPANS, TOKENS, batch, tiny, widen

SMALL = {
    "num_hidden_layers": 3,
    "hidden_size": 32,
    "embedding_size": 8,
    "intra_bottleneck_size": 12,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}
VARIANTS = ("mobilebert", "tiny", "ib_bert")
ENDINGS = [name.removeprefix("AutoModel") for name in AUTO_CLASSES]


def make(kind: str, teacher: PreTrainedModel | None = None, task: str | None = None, **sizes: int) -> PreTrainedModel:
    if kind == "ib_bert":
        return students.ib_bert(teacher, task=task, **sizes)
    return students.mobilebert(teacher, variant=kind, task=task, **sizes)


# --- sizes ----------------------------------------------------------------------------------------


def linear(inputs: int, outputs: int) -> int:
    return (inputs + 1) * outputs


def norm(width: int) -> int:
    return 2 * width


def embeddings() -> int:
    """Words of 128, three of them side by side to 512, positions, segments and a norm."""
    return 30522 * 128 + linear(3 * 128, 512) + 512 * 512 + 2 * 512 + norm(512)


def feed_forward(inside: int, between: int) -> int:
    return linear(inside, between) + linear(between, inside) + norm(inside)


def mobilebert_block() -> int:
    bottlenecks = 2 * (linear(512, 128) + norm(128)) + linear(128, 512) + norm(512)
    attention = 2 * linear(128, 128) + linear(512, 128) + linear(128, 128) + norm(128)
    return bottlenecks + attention + 4 * feed_forward(128, 512)


def tiny_block() -> int:
    bottlenecks = linear(512, 128) + norm(128) + linear(128, 512) + norm(512)
    attention = 3 * linear(128, 128) + linear(128, 128) + norm(128)
    return bottlenecks + attention + 2 * feed_forward(128, 512)


def ib_bert_block() -> int:
    bottlenecks = linear(512, 1024) + norm(1024) + linear(1024, 512) + norm(512)
    attention = 3 * linear(512, 1024) + linear(1024, 1024) + norm(1024)
    return bottlenecks + attention + feed_forward(1024, 4096)


@pytest.mark.parametrize(
    ("kind", "block", "expected", "reported"),
    [
        ("mobilebert", mobilebert_block, 24_581_888, 25.3e6),
        ("tiny", tiny_block, 15_485_696, 15.1e6),
        ("ib_bert", ib_bert_block, 294_205_184, 293e6),
    ],
)
def test_the_published_shapes(kind, block, expected, reported):
    """Counted without heads; the reported figures, of which it is not said what they count, lie within 3 %."""
    with torch.device("meta"):
        model = make(kind, task="masked_lm")
    assert model.base_model.num_parameters() == embeddings() + 24 * block() == expected
    assert abs(expected / reported - 1) < 0.03
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads) == (24, 512, 4)
    expected_norm, activation, dropout = ("layer_norm", "gelu", 0.1) if kind == "ib_bert" else ("no_norm", "relu", 0.0)
    assert (config.normalization_type, config.hidden_act) == (expected_norm, activation)
    assert (config.hidden_dropout_prob, config.attention_probs_dropout_prob) == (dropout, 0.1)
    assert config.classifier_activation is False


@pytest.mark.parametrize("kind", VARIANTS)
def test_every_block_hands_on_the_outer_width(kind):
    model = make(kind, tiny("bert"), **SMALL)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        output = model(**batch("bert"), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(3, 11, 32)] * 4
    assert [tuple(weights.shape) for weights in output.attentions] == [(3, 2, 11, 11)] * 3
    assert output.logits.shape == (3, 11, 96)
    assert model.dtype == torch.float32
    assert not model.training


# --- IB-BERT --------------------------------------------------------------------------------------


def ib_bert_by_hand(weights: dict[str, Tensor], inputs: dict[str, Tensor], layers: int, heads: int) -> Tensor:
    """The states that leave the last block, written out from the paper's figure."""

    def dense(name: str, state: Tensor) -> Tensor:
        return state @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(name: str, state: Tensor) -> Tensor:
        centred = state - state.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-12)
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def by_head(state: Tensor) -> Tensor:
        return state.unflatten(-1, (heads, -1)).transpose(1, 2)

    words = weights["embeddings.word_embeddings.weight"][inputs["input_ids"]]
    rim = torch.zeros_like(words[:, :1])
    three = torch.cat([torch.cat([words[:, 1:], rim], 1), words, torch.cat([rim, words[:, :-1]], 1)], -1)
    state = dense("embeddings.embedding_transformation", three)
    state = state + weights["embeddings.position_embeddings.weight"][: state.shape[1]]
    state = normed("embeddings.LayerNorm", state + weights["embeddings.token_type_embeddings.weight"][0])
    hidden_keys = inputs["attention_mask"][:, None, None, :] == 0
    for layer in range(layers):
        block = f"encoder.layer.{layer}"
        query, key, value = (
            by_head(dense(f"{block}.attention.self.{name}", state)) for name in ("query", "key", "value")
        )
        scores = (query @ key.transpose(2, 3) / math.sqrt(query.shape[-1])).masked_fill(hidden_keys, -math.inf)
        attended = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        inside = normed(f"{block}.bottleneck.input.LayerNorm", dense(f"{block}.bottleneck.input.dense", state))
        attended = dense(f"{block}.attention.output.dense", attended) + inside
        attended = normed(f"{block}.attention.output.LayerNorm", attended)
        between = functional.gelu(dense(f"{block}.intermediate.dense", attended))
        inside = normed(f"{block}.output.LayerNorm", dense(f"{block}.output.dense", between) + attended)
        outside = dense(f"{block}.output.bottleneck.dense", inside) + state
        state = normed(f"{block}.output.bottleneck.LayerNorm", outside)
    return state


def test_ib_bert_computes_what_the_paper_draws():
    model = widen(make("ib_bert", tiny("bert"), **SMALL)).double()
    inputs = batch("bert")
    with torch.no_grad():
        found = model.base_model(**inputs).last_hidden_state
    expected = ib_bert_by_hand(model.base_model.state_dict(), inputs, layers=3, heads=2)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-10)


@pytest.mark.parametrize("auto_class", list(AUTO_CLASSES))
def test_ib_bert_is_saved_and_loaded_like_any_other(auto_class: str, tmp_path: Path):
    config = IBBertConfig(vocab_size=96, max_position_embeddings=40, num_labels=3, **SMALL)
    if auto_class == SPANS:
        config.num_labels = 2
    model = widen(getattr(transformers, auto_class).from_config(config))
    assert type(model) is AUTO_CLASSES[auto_class]
    model.save_pretrained(tmp_path)
    loaded, report = getattr(transformers, auto_class).from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(model)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    inputs = {name: value[:2] for name, value in batch("bert").items()}
    if auto_class == "AutoModelForMultipleChoice":
        inputs = {name: value.unsqueeze(0) for name, value in inputs.items()}
    with torch.no_grad():
        expected, found = model(**inputs), loaded(**inputs)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    weights = loaded.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "ib_bert"
    assert "auto_map" not in saved
    assert {path.suffix for path in tmp_path.iterdir()} <= {".json", ".safetensors"}


def test_a_masked_lm_of_ib_bert_loads_as_its_backbone_and_back(tmp_path: Path):
    model = widen(make("ib_bert", tiny("bert"), **SMALL))
    model.save_pretrained(tmp_path)
    base, report = transformers.AutoModel.from_pretrained(tmp_path, output_loading_info=True, add_pooling_layer=False)
    assert not report["missing_keys"]
    with torch.no_grad():
        inputs = batch("bert")
        assert torch.equal(base(**inputs).last_hidden_state, model.base_model(**inputs).last_hidden_state)


def test_the_weights_of_ib_bert_are_drawn_with_the_configured_spread():
    torch.manual_seed(0)
    config = IBBertConfig(vocab_size=96, max_position_embeddings=40, **{**SMALL, "intra_bottleneck_size": 64})
    config.initializer_range = 0.05
    model = IBBertForMaskedLM(config)
    for block in model.base_model.encoder.layer:
        for name in ("query", "key", "value"):
            projection = getattr(block.attention.self, name)
            assert projection.weight.shape == (64, 32)
            assert float(projection.weight.detach().std()) == pytest.approx(0.05, rel=0.1)
            assert not projection.bias.any()
    assert model.cls.predictions.decoder.weight is model.base_model.embeddings.word_embeddings.weight


def test_every_norm_of_ib_bert_has_the_configured_epsilon():
    config = IBBertConfig(vocab_size=96, max_position_embeddings=40, layer_norm_eps=1e-7, **SMALL)
    found = {module.eps for module in IBBertForMaskedLM(config).modules() if isinstance(module, torch.nn.LayerNorm)}
    assert found == {1e-7}


@pytest.mark.parametrize("name", ["use_bottleneck_attention", "key_query_shared_bottleneck"])
def test_ib_bert_has_no_attention_on_a_bottleneck(name: str):
    with pytest.raises(DistillationError, match=f"{name} is true.*model type 'mobilebert'"):
        IBBertConfig(**{name: True})


# --- makers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (LANGUAGE["bert"], "MobileBertForMaskedLM"),
        (CLASSIFIER, "MobileBertForSequenceClassification"),
        (TOKENS, "MobileBertForTokenClassification"),
        (SPANS, "MobileBertForQuestionAnswering"),
        ("AutoModelForPreTraining", "MobileBertForPreTraining"),
        ("AutoModel", "MobileBertModel"),
    ],
)
def test_the_head_is_the_teachers(head: str, expected: str):
    teacher = tiny("bert", head, problem_type="multi_label_classification")
    names = ["no", "yes", "perhaps"][: teacher.config.num_labels]
    teacher.config.id2label, teacher.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
    student = students.mobilebert(teacher, **SMALL)
    assert type(student).__name__ == expected
    copied = ("vocab_size", "pad_token_id", "eos_token_id", "id2label", "label2id", "problem_type")
    for name in (*copied, "max_position_embeddings", "type_vocab_size"):
        assert getattr(student.config, name) == getattr(teacher.config, name), name


def test_a_task_picks_another_head():
    teacher = tiny("bert")
    assert type(students.mobilebert(teacher, task="token_classification", **SMALL)) is MobileBertForTokenClassification
    assert type(students.ib_bert(task="masked_lm", **SMALL)) is IBBertForMaskedLM


@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending not in ("", "ForNextSentencePrediction")])
@pytest.mark.parametrize("dense", [True, False])
def test_embeddings_and_head_start_as_those_of_ib_bert(ending: str, dense: bool, caplog: pytest.LogCaptureFixture):
    config = IBBertConfig(vocab_size=96, max_position_embeddings=40, **SMALL)
    config.classifier_activation = dense
    teacher = widen(AUTO_CLASSES[f"AutoModel{ending}"](config))
    with caplog.at_level(logging.INFO, "hf_distill.students"):
        student = students.mobilebert(teacher, **{**SMALL, "intra_bottleneck_size": 8})
    assert "taken over from the teacher: embeddings and head" in caplog.text
    ours, theirs = student.state_dict(), teacher.state_dict()
    outside = [name for name in ours if ".encoder." not in name]
    assert len(outside) > 7
    assert all(torch.equal(ours[name], theirs[name]) for name in outside)
    inside = [name for name in ours if ".encoder." in name and ours[name].dim() == 2]
    assert not any(name in theirs and torch.equal(ours[name], theirs[name]) for name in inside)
    assert not {t.data_ptr() for t in ours.values()} & {t.data_ptr() for t in theirs.values()}


def test_the_words_of_a_masked_lm_stay_tied():
    teacher = widen(IBBertForMaskedLM(IBBertConfig(vocab_size=96, max_position_embeddings=40, **SMALL)))
    student = students.mobilebert(teacher, **SMALL)
    assert student.cls.predictions.decoder.weight is student.mobilebert.embeddings.word_embeddings.weight
    assert torch.equal(student.mobilebert.embeddings.word_embeddings.weight, teacher.cls.predictions.decoder.weight)


def test_nothing_is_taken_over_where_shapes_differ(caplog: pytest.LogCaptureFixture):
    """BERT has a wide table and no third of the output matrix, though some of its tensors would fit."""
    teacher = tiny("bert")
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    with caplog.at_level(logging.INFO, "hf_distill.students"):
        student = students.mobilebert(teacher, **SMALL)
    assert "taken over from the teacher: nothing" in caplog.text
    assert not torch.equal(
        student.mobilebert.embeddings.position_embeddings.weight, teacher.bert.embeddings.position_embeddings.weight
    )
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_a_classifier_is_taken_over_from_a_bert_of_the_same_width():
    """With the dense layer before it, which both have then."""
    teacher = tiny("mobilebert", CLASSIFIER, hidden_size=32, classifier_activation=True)
    student = students.mobilebert(teacher, **SMALL)
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    assert torch.equal(student.mobilebert.pooler.dense.weight, teacher.mobilebert.pooler.dense.weight)
    bert = students.mobilebert(tiny("bert", CLASSIFIER), **SMALL)
    assert bert.config.classifier_activation is False
    assert not hasattr(bert.mobilebert.pooler, "dense")


def test_an_adapter_is_merged_first():
    teacher = widen(IBBertForMaskedLM(IBBertConfig(vocab_size=96, max_position_embeddings=40, **SMALL)))
    adapted = get_peft_model(teacher, LoraConfig(target_modules=["embedding_transformation"], init_lora_weights=False))
    student = students.mobilebert(adapted, **SMALL)
    merged = adapted.merge_and_unload()
    expected = merged.mobilebert.embeddings.embedding_transformation.weight
    torch.testing.assert_close(student.mobilebert.embeddings.embedding_transformation.weight, expected)


def test_the_same_seed_makes_the_same_student():
    made = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        made.append(students.mobilebert(tiny("bert"), **SMALL).state_dict())
    name = "mobilebert.encoder.layer.0.attention.self.query.weight"
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[0])
    assert not torch.equal(made[0][name], made[2][name])


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        ("small", {}, "unknown variant 'small'; the variants are mobilebert, tiny"),
        ("mobilebert", {"task": "masked"}, "unknown task 'masked'; the tasks are single_label"),
        ("mobilebert", {"task": "causal_lm"}, "no such model for the task 'causal_lm'; the heads are .*ForMaskedLM"),
        ("ib_bert", {"hiden_size": 8}, r"unknown size 'hiden_size' \(did you mean 'hidden_size'\?\)"),
        ("mobilebert", {"hidden_size": 0}, "hidden_size is 0; it must be a whole number"),
        ("mobilebert", {"hidden_size": True}, "hidden_size is True"),
        ("mobilebert", {"hidden_size": 32.0}, r"hidden_size is 32\.0"),
        ("ib_bert", {**SMALL, "num_attention_heads": 5}, "5 attention heads do not divide the 12 features"),
        ("tiny", {**SMALL, "embedding_size": 32}, "embeddings of 32 features must be narrower .* of 32"),
    ],
)
def test_what_cannot_be_made_is_refused(kind, settings, words):
    with pytest.raises(IncompatiblePair, match=words):
        make(kind, tiny("bert"), **settings)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_head_that_no_mobilebert_has_is_refused(family: str):
    with pytest.raises(IncompatiblePair, match="there is no such model for the class"):
        students.mobilebert(tiny(family), **SMALL)


def test_without_a_teacher_a_task_is_asked_for():
    with pytest.raises(IncompatiblePair, match=r"give the teacher whose head to take, or task=…"):
        students.mobilebert()
