"""Batches of all padding, without labels, without tokens, of one example and of one class: right, or refused by name,
in training and in evaluation."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import GradientState
from transformers import DataCollatorWithFlattening

from hf_distill import HiddenMSE, Labels, SoftTargets
from hf_distill.errors import DataError, DistillationError, NonFiniteLoss
from tests import tiny
from tests.faults.tiny_faults import trainer_for

ONE_STEP = {"max_steps": 1, "per_device_train_batch_size": 6}


def padded(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose every token is padding."""
    length = len(row["input_ids"])
    return {"input_ids": [0] * length, "attention_mask": [0] * length, "labels": [-100] * length}


def stepped(task: str, rows: list[dict[str, Any]]) -> Any:
    objectives = SoftTargets() + Labels() + HiddenMSE(layer_map="final")
    trainer = trainer_for(task, train_dataset=rows, objectives=objectives, arguments=ONE_STEP)
    trainer.train()
    return trainer


@pytest.mark.parametrize("task", ["token_classification", "masked_lm", "causal_lm"])
def test_rows_of_padding_alone_weigh_nothing(task: str) -> None:
    rows = tiny.rows(task, 4)
    alone, beside = stepped(task, rows), stepped(task, [padded(rows[0]), *rows, padded(rows[1])])
    assert tiny.distance(alone.model, tiny.model(task, seed=1)) > 1e-4
    assert tiny.distance(alone.model, beside.model) < 1e-6
    losses = [trainer.state.log_history[0]["loss"] for trainer in (alone, beside)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_batch_of_padding_alone_moves_nothing_and_is_no_nan() -> None:
    rows = tiny.rows("causal_lm", 6)
    trainer = stepped("causal_lm", [padded(row) for row in rows])
    assert tiny.distance(trainer.model, tiny.model("causal_lm", seed=1)) == 0.0
    assert trainer.state.log_history[0]["loss"] == 0.0


def test_an_evaluation_passes_rows_of_padding_over() -> None:
    rows = tiny.rows("masked_lm", 4)
    trainer = trainer_for("masked_lm")
    alone = trainer.evaluate(rows)["eval_loss"]
    beside = trainer.evaluate([*rows[:2], padded(rows[0]), *rows[2:], padded(rows[1])])["eval_loss"]
    assert beside == pytest.approx(alone, rel=1e-6)
    assert math.isnan(trainer.evaluate([padded(row) for row in rows])["eval_loss"])


@pytest.mark.parametrize("stage", ["train", "evaluate"])
def test_a_batch_without_any_token_is_refused(stage: str) -> None:
    rows = [{"input_ids": [], "attention_mask": [], "labels": 1}] * 8
    trainer = trainer_for(train_dataset=rows)
    with pytest.raises(DataError, match=r"has no token at all: all its texts are empty.*add_special_tokens"):
        trainer.train() if stage == "train" else trainer.evaluate(rows)


def test_one_empty_row_among_others_is_padding() -> None:
    rows = [{"input_ids": [], "attention_mask": [], "labels": 1}, *tiny.rows("single_label", 3)]
    trainer = trainer_for(train_dataset=rows, objectives=SoftTargets() + Labels() + HiddenMSE(layer_map="final"))
    trainer.train()
    assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    assert math.isfinite(trainer.evaluate(rows)["eval_loss"])


@pytest.mark.parametrize(
    "rows", [tiny.rows("single_label", 1), [{**r, "labels": 2} for r in tiny.rows("single_label")]]
)
def test_one_example_and_one_class_are_learned(rows: list[dict[str, Any]]) -> None:
    trainer = trainer_for(train_dataset=rows, objectives=Labels(), arguments={"max_steps": 3})
    before = trainer.evaluate(rows)["eval_loss"]
    trainer.train()
    assert trainer.evaluate(rows)["eval_loss"] < before


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="the training data have no rows"):
        trainer_for(train_dataset=[]).train()


@pytest.mark.parametrize("stage", ["train", "evaluate", "predict"])
@pytest.mark.parametrize("label", [3, -1])
def test_a_label_that_is_no_class_is_named_with_its_row(stage: str, label: int) -> None:
    rows = [dict(row) for row in tiny.rows("single_label", 4)]
    rows[2]["labels"] = label
    trainer = trainer_for(train_dataset=rows)
    with pytest.raises(
        DataError, match=rf"row 3 of a batch has the label {label}, and the student has logits for 0 to 2"
    ):
        trainer.train() if stage == "train" else getattr(trainer, stage)(rows)


def test_a_label_that_no_term_reads_is_no_matter() -> None:
    rows = [{**row, "labels": 7} for row in tiny.rows("single_label", 8)]
    trainer_for(train_dataset=rows, objectives=SoftTargets()).train()


@pytest.mark.parametrize("token", [tiny.VOCABULARY, -1])
def test_a_token_that_has_no_embedding_is_named_with_its_row(token: int) -> None:
    rows = [dict(row) for row in tiny.rows("single_label", 4)]
    rows[1]["input_ids"] = [5, token, *rows[1]["input_ids"][2:]]
    with pytest.raises(DataError, match=rf"row 2 of a batch has the token {token}, .* embeddings for 0 to 95"):
        trainer_for(train_dataset=rows).train()


def test_infinite_scores_are_named() -> None:
    rows = [{**row, "labels": float("inf")} for row in tiny.rows("regression", 8)]
    with pytest.raises(NonFiniteLoss, match=r"step 1: the value of 'labels' is NaN or infinite"):
        trainer_for("regression", train_dataset=rows).train()


def test_joined_rows_that_several_processes_would_repeat_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 10 rows two processes read 4 at once, and the 2 that are left would be filled up."""

    def made(tokens: int | None = None, **arguments: Any) -> Any:
        return trainer_for(
            "causal_lm",
            objectives=SoftTargets(),
            train_dataset=tiny.rows("causal_lm", 10),
            data_collator=DataCollatorWithFlattening(),
            tokens_per_batch=tokens,
            arguments={"per_device_train_batch_size": 2, "remove_unused_columns": False, **arguments},
        )

    made()
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    with pytest.raises(DistillationError, match=r"last batches of an epoch have 2 rows.*2 of the 10"):
        made()
    made(dataloader_drop_last=True)
    made(per_device_train_batch_size=5)
    made(accelerator_config={"even_batches": False})
    made(tokens=100)


@pytest.mark.parametrize(("rows", "arguments", "refused"), [
    (10, {}, True),
    (8, {}, False),
    (10, {"dataloader_drop_last": True}, False),
    (10, {"per_device_eval_batch_size": 5}, False),
    (10, {"accelerator_config": {"split_batches": True}}, False),
])  # fmt: skip
def test_joined_rows_of_an_evaluation_are_refused_as_well(
    rows: int, arguments: dict[str, Any], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 10 rows two processes evaluate 4 at once, and the last two batches would count two rows twice."""
    trainer = trainer_for(
        "causal_lm",
        objectives=SoftTargets(),
        train_dataset=tiny.rows("causal_lm", 8),
        data_collator=DataCollatorWithFlattening(),
        arguments={"per_device_eval_batch_size": 2, "remove_unused_columns": False, **arguments},
    )
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    found = pytest.raises(DistillationError, match=r"batches of an evaluation have 2 rows.*2 of the 10")
    with found if refused else nullcontext():
        trainer.evaluate(tiny.rows("causal_lm", rows))


def test_an_evaluation_has_no_rows_left_over_from_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where accelerate does not tell how many rows are left, what is known is of the training loader alone: 8 rows, of
    which two processes read 6 at once."""
    trainer = trainer_for(objectives=SoftTargets(), arguments={"per_device_train_batch_size": 3})
    monkeypatch.setattr(Accelerator, "num_processes", property(lambda self: 2))
    trainer.get_train_dataloader()
    monkeypatch.setattr(GradientState, "remainder", property(lambda self: -1))
    monkeypatch.setattr(GradientState, "end_of_dataloader", property(lambda self: True))
    batch = tiny.Pad()(tiny.rows("single_label", 3))
    trained = trainer.get_batch_samples(iter([dict(batch)]), 1, torch.device("cpu"))[0][0]
    assert len(trained["input_ids"]) == 2
    assert len(trainer._without_repeated(dict(batch))["input_ids"]) == 3
