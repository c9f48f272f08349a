"""How a trainer is made: the order of its arguments, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hf_distill import DistillationError, DistillationTrainer
from tests import tiny
from tests.dropin import sides
from tests.dropin.sides import each_side

Side = Callable[..., Any]


def test_every_argument_of_the_trainer_is_taken_in_its_place() -> None:
    taken = list(inspect.signature(Trainer.__init__).parameters)[1:]
    model, args, rows = tiny.model("single_label", seed=1), tiny.arguments(max_steps=1), tiny.rows("single_label", 8)
    given = (model, args, tiny.Pad(), rows, rows[:4], None, None, None, len, [], (None, None), None, torch.clone)
    assert len(given) == len(taken)
    trainer = DistillationTrainer(*given)
    for name, value in zip(taken, given, strict=True):
        if name not in ("callbacks", "optimizers", "model_init"):
            assert getattr(trainer, name) is value, name
    by_name = DistillationTrainer(**dict(zip(taken, given, strict=True)))
    trainer.train()
    by_name.train()
    assert trainer.state.global_step == by_name.state.global_step == 1


def test_every_public_method_of_the_trainer_takes_what_it_took() -> None:
    for name, method in inspect.getmembers(Trainer, inspect.isfunction):
        if name == "__init__" or getattr(DistillationTrainer, name) is method:
            continue
        theirs = inspect.signature(method).parameters
        ours = inspect.signature(getattr(DistillationTrainer, name)).parameters
        kinds = {each.kind for each in ours.values()}
        spare = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD} & kinds
        missing = [parameter for parameter in theirs if parameter not in ours]
        assert not missing or spare, f"{name} lacks {missing}"
        shared = [parameter for parameter in ours if parameter in theirs]
        assert shared == [parameter for parameter in theirs if parameter in ours], f"{name}: another order"


REFUSED: dict[str, Callable[[], dict[str, Any]]] = {
    "neither a model nor model_init": lambda: {"model": None},
    "both": lambda: {"model_init": lambda: tiny.model("single_label")},
    "an optimizer with model_init": lambda: {
        "model": None,
        "model_init": lambda: tiny.model("single_label"),
        "optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), None),
    },
    "two ways to an optimizer": lambda: {
        "optimizers": (torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]), None),
        "optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1}),
    },
    "batches of metrics without compute_result": lambda: {
        "args": tiny.arguments(batch_eval_metrics=True),
        "compute_metrics": lambda prediction: {},
    },
    "evaluation without rows": lambda: {"args": tiny.arguments(eval_strategy="steps"), "eval_dataset": None},
    "a stream without max_steps": lambda: {
        "args": tiny.arguments(max_steps=-1),
        "train_dataset": iter([]),
    },
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED)
def test_what_the_trainer_refuses_is_refused(change: Callable[[], dict[str, Any]]) -> None:
    for kind in (Trainer, DistillationTrainer):
        with pytest.raises((ValueError, RuntimeError, TypeError)):
            kind(**{**sides.given(), **change()})


@each_side
def test_what_is_missing_is_told_when_it_is_needed(side: Side) -> None:
    trainer = side(train_dataset=None, eval_dataset=None)
    with pytest.raises(ValueError, match="train_dataset"):
        trainer.train()
    with pytest.raises(ValueError, match="eval_dataset"):
        trainer.evaluate()


def test_models_of_which_no_loss_is_known_are_refused_by_name() -> None:
    """The Trainer finds out in the first step, or trains them as they like."""
    with pytest.raises(DistillationError, match="Linear"):
        DistillationTrainer(torch.nn.Linear(2, 2), tiny.arguments())
    with pytest.raises(DistillationError, match="without a head"):
        DistillationTrainer(tiny.model("single_label").bert, tiny.arguments())


def test_arguments_may_be_left_out(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    made = [kind(tiny.model("single_label", seed=1)) for kind in (Trainer, DistillationTrainer)]
    assert made[0].args.output_dir == made[1].args.output_dir
    assert isinstance(made[1].args, TrainingArguments)
