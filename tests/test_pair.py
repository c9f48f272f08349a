"""How labels and vocabularies of two models are put side by side, and when they are not."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import MBartConfig, MBartForConditionalGeneration

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests.shapes import shape
from tests.tiny_models import tiny

CLASSES = {
    "single_label": "XForSequenceClassification",
    "multi_label": "XForSequenceClassification",
    "regression": "XForSequenceClassification",
    "token_classification": "XForTokenClassification",
    "question_answering": "XForQuestionAnswering",
    "masked_lm": "XForMaskedLM",
    "causal_lm": "XForCausalLM",
}
PROBLEM = {"multi_label": "multi_label_classification", "regression": "regression"}


def anatomy(task: str, labels: list[str] | int = 2, *, vocab_size: int = 30, num_logits: int | None = None) -> Anatomy:
    """What a pair asks of an anatomy."""
    names = [f"LABEL_{i}" for i in range(labels)] if isinstance(labels, int) else labels
    base = type(CLASSES[task], (), {})()
    base.config = SimpleNamespace(
        num_labels=len(names), id2label=dict(enumerate(names)), problem_type=PROBLEM.get(task), vocab_size=vocab_size
    )
    width = num_logits if num_logits is not None else vocab_size if TASKS[task].vocabulary_sized else len(names)
    return cast(Anatomy, SimpleNamespace(base=base, shape=shape(num_logits=width, vocab_size=vocab_size)))


def pair(student: Anatomy, teacher: Anatomy | None, task: str, **settings: Any) -> Pair:
    return Pair.of(student, teacher, TASKS[task], **settings)


# ---- labels ----


def test_equal_names_in_equal_order_need_no_columns() -> None:
    side = anatomy("single_label", ["no", "yes"])
    assert pair(side, side, "single_label").teacher_columns is None


def test_another_order_is_mapped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = anatomy("single_label", ["no", "yes", "maybe"]), anatomy("single_label", ["yes", "maybe", "no"])
    with caplog.at_level(logging.WARNING):
        found = pair(student, teacher, "single_label")
    assert found.teacher_columns == (2, 0, 1)
    assert "reordered to the student's order" in caplog.text
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    assert found.align(torch.zeros(1, 3), logits)[1].tolist() == [[3.0, 1.0, 2.0]]


def test_names_that_mean_the_same_are_mapped() -> None:
    student, teacher = anatomy("single_label", ["neg", "pos"]), anatomy("single_label", ["positive", "negative"])
    with pytest.raises(IncompatiblePair, match=r"\['neg', 'pos'\], the teacher's \['positive', 'negative'\]"):
        pair(student, teacher, "single_label")
    label_map = {"neg": "negative", "pos": "positive"}
    assert pair(student, teacher, "single_label", label_map=label_map).teacher_columns == (1, 0)


def test_two_sides_without_names_are_taken_in_order(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert pair(anatomy("single_label", 3), anatomy("single_label", 3), "single_label").teacher_columns is None
    assert "taken to be in the same order" in caplog.text


@pytest.mark.parametrize("sides", [(2, ["no", "yes"]), (["no", "yes"], 2)])
def test_one_side_without_names_asks_for_a_map(sides: Any) -> None:
    student, teacher = (anatomy("single_label", side) for side in sides)
    with pytest.raises(IncompatiblePair, match="one side has no names"):
        pair(student, teacher, "single_label")
    ours, theirs = student.base.config.id2label, teacher.base.config.id2label
    label_map = {ours[0]: theirs[1], ours[1]: theirs[0]}
    assert pair(student, teacher, "single_label", label_map=label_map).teacher_columns == (1, 0)


@pytest.mark.parametrize(
    "label_map", [{"ne": "no"}, {"no": "nein", "yes": "ja"}, {"no": "yes"}, {"no": "yes", "yes": "yes"}]
)
def test_a_map_with_unknown_or_doubled_names_is_refused(label_map: dict[str, str]) -> None:
    side = anatomy("single_label", ["no", "yes"])
    with pytest.raises(IncompatiblePair, match="label_map"):
        pair(side, side, "single_label", label_map=label_map)


def test_other_counts_are_refused() -> None:
    with pytest.raises(IncompatiblePair, match="the student has 2 labels, the teacher 3"):
        pair(anatomy("single_label", 2), anatomy("single_label", 3), "single_label")
    with pytest.raises(IncompatiblePair, match="the student predicts 1 scores, the teacher 2"):
        pair(anatomy("regression", 1), anatomy("regression", 2), "regression")


def test_other_problems_are_refused() -> None:
    with pytest.raises(IncompatiblePair, match=r"solves single_label, the teacher .* regression"):
        pair(anatomy("single_label"), anatomy("regression", 2), "single_label")
    with pytest.raises(IncompatiblePair, match=r"XForSequenceClassification\) solves single_label, .*\(XForMaskedLM"):
        pair(anatomy("single_label"), anatomy("masked_lm"), "single_label")


@pytest.mark.parametrize("task", ["regression", "question_answering", "masked_lm", "causal_lm"])
def test_label_names_do_not_matter_where_there_are_no_classes(task: str) -> None:
    found = pair(anatomy(task, ["a", "b"]), anatomy(task, 2), task, tokenizer_size=30)
    assert found.teacher_columns is None


def test_a_map_without_labels_to_map_is_refused() -> None:
    label_map = {"no": "yes", "yes": "no"}
    side = anatomy("causal_lm")
    with pytest.raises(IncompatiblePair, match="a causal_lm task has no named labels; leave it out"):
        pair(side, side, "causal_lm", label_map=label_map)
    with pytest.raises(IncompatiblePair, match="there is no teacher; leave it out"):
        pair(anatomy("single_label", ["no", "yes"]), None, "single_label", label_map=label_map)


# ---- vocabularies ----


@pytest.mark.parametrize("sizes", [(30, 32), (32, 30)])
def test_a_padded_vocabulary_is_cut(sizes: tuple[int, int]) -> None:
    sides = [anatomy("causal_lm", vocab_size=size) for size in sizes]
    found = pair(*sides, "causal_lm", tokenizer_size=29)
    assert found.vocabulary == 30
    logits = [torch.arange(float(size)).expand(1, 2, size) for size in sizes]
    assert [tuple(side.shape) for side in found.align(*logits)] == [(1, 2, 30)] * 2


@pytest.mark.parametrize(
    ("tokenizer_size", "words"), [(31, "the tokenizer 31"), (None, "is not given .pass processing_class")]
)
@pytest.mark.parametrize("task", ["causal_lm", "single_label"])
def test_another_vocabulary_is_refused(task: str, tokenizer_size: int | None, words: str) -> None:
    sides = [anatomy(task, vocab_size=size) for size in (30, 32)]
    with pytest.raises(
        IncompatiblePair, match=f"has 30 entries, the teacher's 32, and the tokenizer {words[14:]}|{words}"
    ):
        pair(*sides, task, tokenizer_size=tokenizer_size)


def test_heads_of_another_width_than_the_embedding_are_refused() -> None:
    sides = [anatomy("causal_lm", num_logits=width) for width in (30, 28)]
    with pytest.raises(IncompatiblePair, match="the student has 30 output tokens, the teacher 28, the tokenizer 30"):
        pair(*sides, "causal_lm", tokenizer_size=30)


def test_equal_vocabularies_need_nothing() -> None:
    side = anatomy("masked_lm")
    assert pair(side, side, "masked_lm").vocabulary is None


# ---- what decoders read ----


def seq2seq(family: str, **settings: Any) -> Anatomy:
    model = tiny(family)
    for name, number in settings.items():
        setattr(model.config, name, number)
    return Anatomy.of(model)


@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("changed", ["decoder_start_token_id", "pad_token_id"])
def test_labels_that_each_model_shifts_by_other_tokens_are_refused(family: str, changed: str) -> None:
    student, teacher = seq2seq(family), seq2seq(family, **{changed: 7})
    assert pair(student, seq2seq(family), "seq2seq_lm").teacher is not None
    for sides in ((student, teacher), (teacher, student)):
        with pytest.raises(IncompatiblePair, match=rf"{changed} (\d and 7|7 and \d)"):
            pair(*sides, "seq2seq_lm")


def test_a_start_that_no_label_is_shifted_by_does_not_matter() -> None:
    """mBART begins with the language that ends the labels."""
    size = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 1}
    size |= {"decoder_attention_heads": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 30}
    sides = [MBartForConditionalGeneration(MBartConfig(**size, decoder_start_token_id=start)) for start in (4, 5)]
    pair(*map(Anatomy.of, sides), "seq2seq_lm")


# ---- the rest ----


def test_a_pair_without_a_teacher() -> None:
    found = pair(anatomy("single_label"), None, "single_label", label_smoothing=0.1)
    assert (found.teacher, found.teacher_columns, found.vocabulary, found.label_smoothing) == (None, None, None, 0.1)


@pytest.mark.parametrize("sizes", [((2, 3), (2, 4)), ((2, 5, 3), (2, 4, 3)), ((2, 3), (2, 1, 3))])
def test_logits_that_do_not_pair_up_are_refused(sizes: Any) -> None:
    found = Pair.from_shapes(shape(), shape(), TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match="do not pair up"):
        found.align(*(torch.zeros(size) for size in sizes))


def test_alignment_keeps_the_gradient() -> None:
    found = Pair.from_shapes(shape(), shape(), TASKS["causal_lm"], vocabulary=2)
    student = torch.zeros(1, 1, 4, requires_grad=True)
    found.align(student, torch.zeros(1, 1, 3))[0].sum().backward()
    assert student.grad is not None
    assert student.grad.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
