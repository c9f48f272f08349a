"""The same call on transformers' `Trainer`, on a `DistillationTrainer` without a teacher, and on one with one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_distill import DistillationTrainer
from tests import tiny

TASK = "single_label"
OF_THE_CLOCK = ("_runtime", "_per_second", "_preparation_time")
"""Ends of names of what no two runs have in common."""
OURS = ("objective/", "weighted/", "weight/")
"""Beginnings of names of what a `DistillationTrainer` logs besides."""


def given(settings: Mapping[str, Any] | None = None, task: str = TASK, **others: Any) -> dict[str, Any]:
    """What either trainer is made of; `settings` are training arguments, `others` the trainer's own."""
    made: dict[str, Any] = {
        "args": tiny.arguments(**(settings or {})),
        "train_dataset": tiny.rows(task, 20),
        "eval_dataset": tiny.rows(task, 10, seed=3),
        "data_collator": tiny.Pad(),
        **others,
    }
    if "model_init" not in made:
        made.setdefault("model", tiny.model(task, seed=1))
    return made


def stock(settings: Mapping[str, Any] | None = None, task: str = TASK, kind: type = Trainer, **others: Any) -> Trainer:
    """transformers' own."""
    return kind(**given(settings, task, **others))


def ours(
    settings: Mapping[str, Any] | None = None, task: str = TASK, kind: type = DistillationTrainer, **others: Any
) -> Any:
    """The one without a teacher."""
    return kind(**given(settings, task, **others))


def taught(
    settings: Mapping[str, Any] | None = None, task: str = TASK, kind: type = DistillationTrainer, **others: Any
) -> Any:
    """The one with a teacher."""
    return kind(teacher=tiny.model(task, layers=3, seed=2), **given(settings, task, **others))


SIDES: dict[str, Callable[..., Any]] = {"stock": stock, "ours": ours, "taught": taught}
each_side = pytest.mark.parametrize("side", SIDES.values(), ids=SIDES)


def cases(of: Mapping[str, Any], fast: Collection[str]) -> list[Any]:
    """Parameters of a test by their names; those that are not `fast` are run with the slow tests."""
    assert not set(fast) - set(of)
    return [pytest.param(value, id=name, marks=() if name in fast else pytest.mark.slow) for name, value in of.items()]


def checkpointing(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that switch checkpointing of activations on, by the names of the transformers at hand."""
    name = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"
    return {f"{name}_checkpointing": True, f"{name}_checkpointing_kwargs": kwargs}


def comparable(row: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs have in common of a row of a log, or of metrics."""
    return {
        name: value for name, value in row.items() if not name.endswith(OF_THE_CLOCK) and not name.startswith(OURS)
    }


def history(trainer: Trainer) -> list[dict[str, Any]]:
    """The rows of the log."""
    return [comparable(row) for row in trainer.state.log_history]


def assert_equal_rows(found: list[dict[str, Any]], expected: list[dict[str, Any]], within: float = 1e-6) -> None:
    """The same rows, with numbers that are equal but for rounding."""
    assert [sorted(row) for row in found] == [sorted(row) for row in expected]
    for ours_row, stock_row in zip(found, expected, strict=True):
        assert ours_row == pytest.approx(stock_row, rel=10 * within, abs=within)


def assert_same_run(found: Trainer, expected: Trainer, within: float = 1e-6) -> None:
    """The same weights, log, and counts of what was seen."""
    assert tiny.distance(found.model, expected.model) <= within
    assert_equal_rows(history(found), history(expected), within)
    for name in ("global_step", "max_steps", "num_train_epochs", "total_flos", "num_input_tokens_seen", "epoch"):
        assert getattr(found.state, name) == getattr(expected.state, name), name


def assert_trained_alike(found: Trainer, expected: Trainer, same_rates: bool = True) -> None:
    """As many steps, at the same rates where these follow the steps alone, with the same rows in the log."""
    ours_rows, stock_rows = history(found), history(expected)
    assert [sorted(row) for row in ours_rows] == [sorted(row) for row in stock_rows]
    for name in ("step", "epoch", *(["learning_rate"] if same_rates else [])):
        assert [row.get(name) for row in ours_rows] == [row.get(name) for row in stock_rows], name
    assert all(torch.isfinite(parameter).all() for parameter in found.model.parameters())
    assert tiny.distance(found.model, tiny.model(TASK, seed=1)) > 1e-7
