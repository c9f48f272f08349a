"""Texts that are generated in evaluation and prediction: what the `Seq2SeqTrainer` returns, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import (
    EvalPrediction,
    GenerationConfig,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    default_data_collator,
)

from hf_distill import DistillationTrainer
from hf_distill.errors import DistillationError, IncompatiblePair
from tests import tiny, tiny_models
from tests.dropin import sides

ROWS = tiny.rows("seq2seq_lm", 7, seed=3)


def arguments(**settings: Any) -> Seq2SeqTrainingArguments:
    plain = tiny.arguments(per_device_eval_batch_size=3)
    given = {"predict_with_generate": True, "report_to": "none", "save_strategy": "no", "use_cpu": True}
    return Seq2SeqTrainingArguments(
        output_dir=plain.output_dir, per_device_eval_batch_size=3, **{**given, **settings}
    )  # fmt: skip


def told(prediction: EvalPrediction) -> dict[str, float]:
    return {"sum": float(np.sum(prediction.predictions)), "labels": float(np.sum(prediction.label_ids))}


def both(settings: dict[str, Any] | None = None, **others: Any) -> list[Any]:
    given = {"eval_dataset": ROWS, "compute_metrics": told, **others}
    kinds = (Seq2SeqTrainer, DistillationTrainer)
    return [
        sides.stock(task="seq2seq_lm", kind=kind, args=arguments(**(settings or {})), **given) for kind in kinds
    ]  # fmt: skip


SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {"generation_max_length": 12},
    "beams and a length": {"generation_max_length": 9, "generation_num_beams": 3},
    "a longer length": {"generation_max_length": 25},
    "a config": {"generation_config": GenerationConfig(max_new_tokens=5, decoder_start_token_id=0, eos_token_id=1)},
    "loss alone": {"prediction_loss_only": True},
}


@pytest.mark.parametrize("settings", sides.cases(SETTINGS, ("beams and a length", "a config")))
def test_predictions_are_those_of_the_seq2seq_trainer(settings: dict[str, Any]) -> None:
    stock, ours = both(settings)
    expected, found = stock.predict(ROWS), ours.predict(ROWS)
    for name in ("predictions", "label_ids"):
        left, right = getattr(expected, name), getattr(found, name)
        assert (left is None) == (right is None)
        if left is not None:
            np.testing.assert_array_equal(right, left)
    assert sorted(sides.comparable(found.metrics)) == sorted(sides.comparable(expected.metrics))
    if "prediction_loss_only" not in settings:
        assert found.metrics["test_sum"] == expected.metrics["test_sum"]
        assert found.metrics["test_labels"] == expected.metrics["test_labels"]


@pytest.mark.parametrize("task", ["seq2seq_lm", "causal_lm"])
def test_columns_that_the_student_does_not_read_are_not_shown_to_generate(task: str) -> None:
    """They are kept for teachers and terms, and the Seq2SeqTrainer drops them."""
    columns = {"special_tokens_mask": [0] * 4, "token_type_ids": [0] * 4}
    given = [{"input_ids": [5, 6, 7, 4 + i], "attention_mask": [1] * 4, "labels": [8, 4, 5, 1]} for i in range(3)]
    rows = Dataset.from_list([{**row, **columns} for row in given])
    settings = {"task": task, "args": arguments(generation_max_length=8), "data_collator": default_data_collator}
    stock = sides.stock(kind=Seq2SeqTrainer, **settings)
    teacher = tiny_models.tiny("gpt2" if task == "causal_lm" else "t5")
    ours = sides.ours(teacher=teacher, **settings)
    np.testing.assert_array_equal(ours.predict(rows).predictions, stock.predict(rows).predictions)


def test_settings_of_a_call_go_before_the_arguments() -> None:
    stock, ours = both({"generation_num_beams": 2, "generation_max_length": 8})
    for call in ({}, {"max_length": 6}, {"max_new_tokens": 4, "num_beams": 1}):
        assert ours.evaluate(**call)["eval_sum"] == stock.evaluate(**call)["eval_sum"]
    several = {"a": ROWS[:4], "b": ROWS[4:]}
    assert ours.evaluate(several, max_length=6)["eval_a_sum"] == ours.evaluate(ROWS[:4], max_length=6)["eval_sum"]


def test_the_loss_is_that_of_the_labels_and_the_config_is_left_alone() -> None:
    (_, ours) = both({"generation_max_length": 6})
    before = ours.model.generation_config.to_dict()
    without = sides.ours(task="seq2seq_lm", eval_dataset=ROWS)
    assert ours.evaluate()["eval_loss"] == pytest.approx(without.evaluate()["eval_loss"], rel=1e-6)
    after = ours.model.generation_config.to_dict()
    assert after == before


def test_it_generates_while_it_trains_and_without_labels() -> None:
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 1, "generation_max_length": 6}
    (_, ours) = both(settings)
    ours.train()
    assert any("eval_sum" in row for row in ours.state.log_history)
    rows = [{name: value for name, value in row.items() if name != "labels"} for row in ROWS]
    ours.compute_metrics = None
    found = ours.predict(rows)
    assert found.label_ids is None
    np.testing.assert_array_equal(found.predictions, ours.predict(ROWS).predictions)


def test_a_config_may_lie_in_a_folder(tmp_path: Path) -> None:
    GenerationConfig(max_new_tokens=5, decoder_start_token_id=0).save_pretrained(tmp_path)
    (_, ours) = both({"generation_config": str(tmp_path)})
    assert ours.model.generation_config.max_new_tokens == 5
    with pytest.raises(DistillationError, match="generation_config: "):
        sides.ours(task="seq2seq_lm", args=arguments(generation_config=str(tmp_path / "nowhere")))


def test_what_cannot_be_generated() -> None:
    with pytest.raises(IncompatiblePair, match=r"BertForSequenceClassification, whose task is single_label"):
        sides.ours(args=arguments())
    plain = sides.ours(task="seq2seq_lm", eval_dataset=ROWS)
    with pytest.raises(DistillationError, match="num_beams: given for generating, and nothing is generated"):
        plain.evaluate(num_beams=2)
