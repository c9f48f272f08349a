"""Rows, targets and masks of every task, and which model solves which."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from hf_distill.activations import Activations
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.tasks import IGNORED, TASKS, real_tokens, task_of

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
LEFT = MASK.flip(1)
IDS = torch.arange(8).reshape(2, 4)
LOGITS = torch.arange(24.0).reshape(2, 4, 3)


def batch(mask: Tensor | None = MASK, **columns: Any) -> dict[str, Tensor]:
    found = {"input_ids": IDS} | ({} if mask is None else {"attention_mask": mask})
    return found | {name: torch.as_tensor(column) for name, column in columns.items()}


# ---- language models ----


def test_causal_rows_are_shifted_once() -> None:
    task, shown = TASKS["causal_lm"], Activations(logits=LOGITS)
    labels = [[5, 6, 7, IGNORED], [8, 9, IGNORED, IGNORED]]
    given = batch(labels=labels)
    assert torch.equal(task.rows(shown, given, "labeled")[0], LOGITS[:, :3])
    assert task.targets(given)[0].tolist() == [[6, 7, IGNORED], [9, IGNORED, IGNORED]]
    assert task.label_mask(given).tolist() == [[True, True, False], [True, False, False]]
    assert task.soft_mask(given, "labeled").tolist() == task.label_mask(given).tolist()
    assert torch.equal(task.rows(shown, given, "attention")[0], LOGITS)
    assert task.soft_mask(given, "attention").tolist() == MASK.bool().tolist()


def test_left_padding_predicts_nothing() -> None:
    labels = [[IGNORED, 5, 6, 7], [IGNORED, IGNORED, 8, 9]]
    assert TASKS["causal_lm"].label_mask(batch(LEFT, labels=labels)).tolist() == [
        [False, True, True],
        [False, False, True],
    ]
    without = TASKS["causal_lm"].label_mask(batch(None, labels=labels))
    assert without.tolist() == [[True, True, True], [False, True, True]]


def test_masked_and_sequence_to_sequence_rows_are_not_shifted() -> None:
    labels = [[IGNORED, 6, IGNORED, IGNORED], [8, IGNORED, IGNORED, IGNORED]]
    given = batch(labels=labels)
    labeled = [[False, True, False, False], [True, False, False, False]]
    for name in ("masked_lm", "seq2seq_lm"):
        task = TASKS[name]
        assert torch.equal(task.rows(Activations(logits=LOGITS), given, task.tokens[0])[0], LOGITS)
        assert task.label_mask(given).tolist() == labeled
    assert TASKS["masked_lm"].soft_mask(given, "masked").tolist() == labeled
    assert TASKS["masked_lm"].soft_mask(given, "all").tolist() == MASK.bool().tolist()
    assert TASKS["seq2seq_lm"].soft_mask(given, "labeled").tolist() == labeled


def test_token_classification_leaves_out_special_tokens() -> None:
    task = TASKS["token_classification"]
    given = batch(labels=[[IGNORED, 1, IGNORED, IGNORED], [IGNORED, 2, IGNORED, IGNORED]])
    assert task.soft_mask(given, "labeled").sum() == 2
    assert task.soft_mask(given, "all").sum() == 5
    marked = given | {"special_tokens_mask": torch.tensor([[1, 0, 1, 1], [1, 0, 1, 1]])}
    assert task.soft_mask(marked, "all").tolist() == [[False, True, False, False], [False, True, False, False]]


# ---- examples ----


def test_single_label() -> None:
    task = TASKS["single_label"]
    given = batch(labels=[1, IGNORED])
    assert task.label_mask(given).tolist() == [True, False]
    assert task.soft_mask(given) is None
    assert task.num_examples(given) == 2


def test_multi_label() -> None:
    task = TASKS["multi_label"]
    given = batch(labels=[[1.0, 0.0], [float(IGNORED), 1.0]])
    assert task.label_mask(given).tolist() == [[True, True], [False, True]]
    assert task.soft_mask(given).tolist() == [[True, True], [False, True]]
    assert task.soft_mask(batch()) is None


def test_regression() -> None:
    task = TASKS["regression"]
    assert task.targets(batch(labels=[1.5, 2.0]))[0].tolist() == [[1.5], [2.0]]
    assert task.targets(batch(labels=[[1.5, 2.0]]))[0].tolist() == [[1.5, 2.0]]
    assert task.soft_mask(batch()) is None


# ---- question answering ----


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_padding_is_no_answer(dtype: torch.dtype) -> None:
    task = TASKS["question_answering"]
    shown = Activations(start_logits=torch.zeros(2, 4, dtype=dtype), end_logits=torch.ones(2, 4, dtype=dtype))
    for rows in task.rows(shown, batch(), "valid"):
        law = torch.softmax(rows / 1e4, -1)
        assert torch.equal(law != 0, MASK.bool())
    for rows in task.rows(shown, batch(), "all"):
        assert rows.dtype == dtype
        assert rows.isfinite().all()


@pytest.mark.parametrize(
    ("mask", "start", "end", "counts"),
    [
        (MASK, [0, 0], [2, 1], [True, True]),
        (MASK, [0, 0], [3, 1], [False, True]),
        (MASK, [0, 2], [2, 2], [True, False]),
        (MASK, [-1, 0], [2, 4], [False, False]),
        (MASK, [IGNORED, 0], [IGNORED, 1], [False, True]),
        (LEFT, [0, 2], [3, 3], [False, True]),
        (None, [3, 0], [3, 384], [True, False]),
    ],
)
def test_answers_lie_on_the_text(mask: Tensor | None, start: list[int], end: list[int], counts: list[bool]) -> None:
    task = TASKS["question_answering"]
    given = batch(mask, start_positions=start, end_positions=end)
    assert task.label_mask(given).tolist() == counts
    for name, found in zip(task.label_names, task.targets(given), strict=True):
        assert found.tolist() == [p if c else IGNORED for p, c in zip(given[name].tolist(), counts, strict=True)]


# ---- decoders, columns ----


def test_where_the_decoders_text_is() -> None:
    for name, task in TASKS.items():
        given = batch(decoder_attention_mask=[[1, 0], [1, 1]], labels=[[1, 2], [3, IGNORED]])
        assert task.decoder_tokens(given).tolist() == [[True, False], [True, True]], name
    classifier, translator = TASKS["single_label"], TASKS["seq2seq_lm"]
    assert classifier.decoder_tokens(batch(labels=[0, 1])).tolist() == MASK.bool().tolist()
    assert translator.decoder_tokens(batch(labels=[[1, 2], [3, IGNORED]])).tolist() == [[True, True], [True, False]]
    assert translator.decoder_tokens(batch(decoder_input_ids=IDS)).all()
    with pytest.raises(DataError, match="'labels'"):
        translator.decoder_tokens(batch())


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if task.label_names])
def test_missing_columns_are_named(name: str) -> None:
    task = TASKS[name]
    missing = task.label_names[-1]
    given = batch() | {column: torch.zeros(2) for column in task.label_names[:-1]}
    with pytest.raises(DataError, match=rf"{name}: the column '{missing}' .* only input_ids, attention_mask"):
        task.label_mask(given)


def test_multi_label_columns_are_two_dimensional() -> None:
    with pytest.raises(DataError, match=r"shape \(2,\); .*problem_type='single_label_classification'"):
        TASKS["multi_label"].label_mask(batch(labels=[0, 1]))


def test_real_tokens() -> None:
    assert real_tokens(batch()).tolist() == MASK.bool().tolist()
    assert real_tokens(batch(None)).all()
    assert real_tokens(batch(None)).dtype == torch.bool
    embedded = real_tokens({"inputs_embeds": torch.zeros(2, 3, 5)})
    assert (tuple(embedded.shape), bool(embedded.all())) == ((2, 3), True)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"labels": IDS}, "attention_mask, input_ids or inputs_embeds .*the batch has only labels"),
        (batch(MASK[:, None, None]), r"attention_mask has the shape \(2, 1, 1, 4\); .* \[batch, length\]"),
    ],
)
def test_a_batch_that_does_not_show_its_text(given: dict[str, Tensor], words: str) -> None:
    with pytest.raises(DataError, match=words):
        real_tokens(given)


# ---- which model ----


def model(class_name: str, num_labels: int = 3, problem_type: str | None = None) -> nn.Module:
    made: nn.Module = type(class_name, (nn.Module,), {})()
    made.config = SimpleNamespace(num_labels=num_labels, problem_type=problem_type)
    return made


@pytest.mark.parametrize(
    ("class_name", "settings", "task"),
    [
        ("BertForSequenceClassification", {}, "single_label"),
        ("BertForSequenceClassification", {"num_labels": 1}, "regression"),
        ("BertForSequenceClassification", {"problem_type": "multi_label_classification"}, "multi_label"),
        (
            "BertForSequenceClassification",
            {"num_labels": 1, "problem_type": "multi_label_classification"},
            "multi_label",
        ),
        ("BertForSequenceClassification", {"problem_type": "regression"}, "regression"),
        ("XForTokenClassification", {}, "token_classification"),
        ("XForQuestionAnswering", {}, "question_answering"),
        ("XForMaskedLM", {}, "masked_lm"),
        ("XForCausalLM", {}, "causal_lm"),
        ("GPT2LMHeadModel", {}, "causal_lm"),
        ("T5ForConditionalGeneration", {}, "seq2seq_lm"),
    ],
)
def test_the_task_of_a_model(class_name: str, settings: dict[str, Any], task: str) -> None:
    assert task_of(model(class_name, **settings)).name == task


def test_the_task_below_an_adapter() -> None:
    wrapper = nn.Module()
    wrapper.get_base_model = lambda: model("XForMaskedLM")  # type: ignore[assignment]
    assert task_of(wrapper).name == "masked_lm"


@pytest.mark.parametrize("name", ["BertModel", "DistilBertModel", "GPT2Model", "ModernBertModel"])
def test_a_model_without_a_head_is_an_encoder(name: str) -> None:
    settings = {"ModernBertModel": {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2}}.get(name, {})
    configuration = getattr(transformers, name).config_class(**settings)
    with torch.device("meta"):
        base = getattr(transformers, name)(configuration)
    task = task_of(base)
    assert (task.name, task.label_names, task.logit_fields) == ("encoder", (), ())
    with pytest.raises(DataError, match="a model without a head has no labels"):
        task.label_mask(batch())


@pytest.mark.parametrize(
    "class_name", ["GPT2DoubleHeadsModel", "BertForNextSentencePrediction", "BertForMultipleChoice"]
)
def test_a_head_without_a_task_is_refused(class_name: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"no task is known for {class_name}; .* ForSequenceClassification"):
        task_of(model(class_name))
