"""Evaluation and prediction: what the `Trainer` returns, and what it hands to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.utils.data import IterableDataset
from transformers import EvalPrediction

from tests import tiny
from tests.dropin import sides
from tests.dropin.sides import each_side

Side = Callable[..., Any]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    found = np.argmax(prediction.predictions, -1) == prediction.label_ids
    return {"accuracy": float(found.mean())}


class Batchwise:
    """Accuracy over batches, told at the last one."""

    def __init__(self) -> None:
        self.right: list[bool] = []

    def __call__(self, prediction: EvalPrediction, compute_result: bool) -> dict[str, float]:
        self.right += (prediction.predictions.argmax(-1) == prediction.label_ids).tolist()
        return {"accuracy": float(np.mean(self.right))} if compute_result else {}


class Stream(IterableDataset):
    """Rows without a length."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


BY_FOURS = {"per_device_eval_batch_size": 4}
ROWS = tiny.rows("single_label", 10, seed=3)
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "metrics": ({}, {}),
    "uneven batches": (BY_FOURS, {}),
    "accumulated on the device": ({**BY_FOURS, "eval_accumulation_steps": 1}, {}),
    "batch_eval_metrics": ({**BY_FOURS, "batch_eval_metrics": True}, {"compute_metrics": Batchwise()}),
    "preprocess_logits_for_metrics": ({}, {"preprocess_logits_for_metrics": lambda logits, _: logits.roll(1, -1)}),
    "prediction_loss_only": ({"prediction_loss_only": True}, {}),
    "without metrics": ({}, {"compute_metrics": None}),
    "eval_use_gather_object": ({"eval_use_gather_object": True}, {}),
    "several data sets": ({}, {"eval_dataset": {"a": ROWS[:6], "b": ROWS[6:]}}),
    "a stream": ({}, {"eval_dataset": Stream(ROWS)}),
    "a column too many": ({}, {"eval_dataset": Dataset.from_list([{**row, "extra": [[1.0]]} for row in ROWS])}),
    "bf16_full_eval": ({"bf16_full_eval": True}, {}),
}


FAST = ("uneven batches", "batch_eval_metrics", "preprocess_logits_for_metrics", "several data sets", "a stream")


@pytest.mark.parametrize("given", sides.cases(SETTINGS, FAST))
def test_evaluate_returns_what_the_trainer_returns(given: tuple[dict[str, Any], dict[str, Any]]) -> None:
    settings, others = given
    found = {}
    for side, make in sides.SIDES.items():
        if isinstance(others.get("compute_metrics"), Batchwise):
            others = {"compute_metrics": Batchwise()}
        trainer = make(settings, **{"compute_metrics": accuracy, **others})
        found[side] = (sides.comparable(trainer.evaluate()), sides.history(trainer))
    expected = found["stock"][0]
    assert "eval_loss" in expected or "eval_a_loss" in expected
    assert found["ours"][0] == pytest.approx(expected, abs=1e-2 if "bf16_full_eval" in settings else 1e-6)
    assert found["taught"] == found["ours"], "no teacher is asked"
    assert [sorted(row) for row in found["ours"][1]] == [sorted(row) for row in found["stock"][1]]


@pytest.mark.parametrize("task", ["token_classification", "question_answering", "masked_lm"])
def test_predict_returns_what_the_trainer_returns(task: str) -> None:
    found = []
    for make in (sides.stock, sides.ours):
        trainer = make({"per_device_eval_batch_size": 4}, task)
        found.append(trainer.predict(tiny.rows(task, 6, seed=5), metric_key_prefix="final"))
    stock, ours = found
    for name in ("predictions", "label_ids"):
        expected, value = getattr(stock, name), getattr(ours, name)
        for each, other in zip(*((v if isinstance(v, tuple) else (v,)) for v in (expected, value)), strict=True):
            np.testing.assert_allclose(other, each, atol=1e-6)
    assert sorted(sides.comparable(ours.metrics)) == sorted(sides.comparable(stock.metrics))


def test_a_loss_over_labels_does_not_depend_on_the_batches_as_the_trainers_does() -> None:
    """The Trainer takes the mean of the batches' means, so that its value moves with the batch size."""
    whole = sides.stock({"per_device_eval_batch_size": 10}, "token_classification").evaluate()["eval_loss"]
    ours = sides.ours({"per_device_eval_batch_size": 4}, "token_classification").evaluate()["eval_loss"]
    assert ours == pytest.approx(whole, rel=1e-6)


def test_batches_that_are_not_joined() -> None:
    settings = {"per_device_eval_batch_size": 4, "eval_do_concat_batches": False}
    stock, ours, taught = (make(settings).predict(tiny.rows("single_label", 10)) for make in sides.SIDES.values())
    for found in (ours, taught):
        assert isinstance(found.predictions, list)
        for each, expected in zip(found.predictions, stock.predictions, strict=True):
            np.testing.assert_allclose(each, expected, atol=1e-6)


@each_side
def test_what_metrics_may_ask_for(side: Side) -> None:
    seen: list[EvalPrediction] = []
    settings = {"include_for_metrics": ["inputs", "loss"], "per_device_eval_batch_size": 5}
    side(settings, compute_metrics=lambda prediction: seen.append(prediction) or {}).evaluate()
    (prediction,) = seen
    assert prediction.inputs.shape[0] == prediction.losses.shape[0] == 10
    plain = sides.stock(settings, compute_metrics=lambda prediction: seen.append(prediction) or {})
    plain.evaluate()
    np.testing.assert_allclose(prediction.losses, seen[1].losses, atol=1e-6)
    np.testing.assert_array_equal(prediction.inputs, seen[1].inputs)


@each_side
def test_ignored_keys_and_label_names(side: Side) -> None:
    model = tiny.model("single_label", seed=1)
    model.config.output_hidden_states = True
    trainer = side({"label_names": ["labels", "attention_mask"]}, model=model)
    both = trainer.predict(tiny.rows("single_label", 6))
    assert len(both.predictions) == 2, "logits and the hidden states"
    assert len(both.predictions[1]) == 3
    assert len(both.label_ids) == 2
    np.testing.assert_array_equal(both.label_ids[0], [row["labels"] for row in tiny.rows("single_label", 6)])
    assert trainer.predict(tiny.rows("single_label", 6), ignore_keys=["hidden_states"]).predictions.shape == (6, 3)


@each_side
def test_loaders_are_the_trainers(side: Side) -> None:
    trainer = side({"per_device_eval_batch_size": 4, "per_device_train_batch_size": 8, "dataloader_drop_last": True})
    assert [len(trainer.get_train_dataloader()), len(trainer.get_eval_dataloader())] == [2, 2]
    assert trainer.get_train_dataloader().total_batch_size == 8
    assert len(trainer.get_eval_dataloader(tiny.rows("single_label", 17))) == 4
    assert len(trainer.get_test_dataloader(tiny.rows("single_label", 9))) == 2
    rows = {"first": tiny.rows("single_label", 8), "second": tiny.rows("single_label", 4)}
    trainer = side({"dataloader_persistent_workers": True, "dataloader_num_workers": 1}, eval_dataset=rows)
    trainer.accelerator.prepare = lambda loader: loader
    first = trainer.get_eval_dataloader("first")
    assert first is trainer.get_eval_dataloader("first"), "workers that persist are made once"
    assert first.dataset is rows["first"]
    assert trainer.get_eval_dataloader("second").dataset is rows["second"]


@pytest.mark.slow
@pytest.mark.parametrize("task", tiny.TASK_NAMES)
def test_every_task_trains_and_evaluates_like_the_trainers(task: str) -> None:
    """Rows of one length: for the Trainer's models padding is a possible answer to a question."""
    rows = tiny.rows(task, 20, shortest=9, longest=9)
    found = []
    for make in (sides.stock, sides.ours):
        trainer = make({"max_steps": 3, "per_device_eval_batch_size": 20}, task, train_dataset=rows, eval_dataset=rows)
        trainer.train()
        found.append((trainer, trainer.evaluate()["eval_loss"]))
    (stock, expected), (ours, loss) = found
    sides.assert_same_run(ours, stock, within=2e-6)
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@each_side
def test_what_a_trainer_holds_may_be_replaced(side: Side) -> None:
    trainer = side({"max_steps": 2})
    trainer.train_dataset, trainer.eval_dataset = tiny.rows("single_label", 8, seed=9), tiny.rows("single_label", 6)
    trainer.data_collator = tiny.Pad(2)
    trainer.compute_metrics = lambda prediction: {"rows": len(prediction.predictions)}
    trainer.train()
    assert (trainer.state.epoch, trainer.evaluate()["eval_rows"]) == (2.0, 6)
    trainer.model = trainer.model_wrapped = tiny.model("single_label", seed=4)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(
        sides.stock(model=trainer.model, eval_dataset=trainer.eval_dataset).evaluate()["eval_loss"], rel=1e-6
    )
    trainer.model.resize_token_embeddings(tiny.VOCABULARY + 4)
    trainer.optimizer = trainer.lr_scheduler = None
    trainer.train()
    assert trainer.callback_handler.model is trainer.model
    assert trainer.optimizer.param_groups[0]["params"][0] is trainer.model.get_input_embeddings().weight


@each_side
def test_a_step_on_its_own_agrees_with_a_training_step(side: Side) -> None:
    """`training_step` and `prediction_step` are called with the bare student."""
    trainer = side(task="causal_lm")
    batch = tiny.Pad()(tiny.rows("causal_lm", 6))
    parameters = trainer.model.num_parameters(exclude_embeddings=True)
    assert trainer.floating_point_ops(batch) == 6 * batch["input_ids"].numel() * parameters
    loss, logits, labels = trainer.prediction_step(trainer.model, dict(batch), prediction_loss_only=False)
    assert logits.shape == (6, batch["labels"].shape[1], tiny.VOCABULARY)
    assert torch.equal(labels, batch["labels"])
    if side is not sides.taught:
        count = batch["labels"][:, 1:].ne(-100).sum()
        assert float(trainer.training_step(trainer.model, dict(batch), count)) == pytest.approx(float(loss), rel=1e-5)
        assert trainer.model.lm_head.weight.grad is not None
