"""Callbacks: who is there, what they see and when, and what they may do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState, PrinterCallback, ProgressCallback

from tests import tiny
from tests.dropin import sides
from tests.dropin.sides import each_side

Side = Callable[..., Any]


class Events(TrainerCallback):
    """Writes down every event, with what it is handed."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.models: list[Any] = []
        self.steps: list[tuple[str, int]] = []


def _writing_down(name: str) -> Callable[..., None]:
    def event(self: Events, args: Any, state: Any, control: Any, model: Any = None, **others: Any) -> None:
        self.seen.append(name)
        self.models.append(model)
        self.steps.append((name, state.global_step))
        if name in ("on_log", "on_evaluate"):
            assert others["logs" if name == "on_log" else "metrics"]
        if name == "on_step_end":
            assert others["optimizer"].param_groups[0]["lr"] == others["lr_scheduler"].get_last_lr()[0]

    return event


for _name in [name for name in dir(TrainerCallback) if name.startswith("on_")]:
    setattr(Events, _name, _writing_down(_name))


SETTINGS = {
    "plain": {},
    "logged, saved, evaluated": {
        "logging_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "eval_strategy": "steps",
        "eval_steps": 2,
        "max_steps": 6,
    },
    "by epoch, accumulated": {
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "max_steps": -1,
        "num_train_epochs": 2,
        "gradient_accumulation_steps": 2,
        "per_device_train_batch_size": 4,
    },
}


@pytest.mark.parametrize("settings", sides.cases(SETTINGS, ["logged, saved, evaluated"]))
def test_events_come_in_the_order_of_the_trainer(settings: dict[str, Any]) -> None:
    found = []
    for side in sides.SIDES.values():
        events = Events()
        trainer = side(settings, callbacks=[events])
        trainer.train()
        trainer.predict(tiny.rows("single_label", 4))
        assert all(model is trainer.model for model in events.models)
        found.append(events.steps)
    assert found[1] == found[0]
    assert found[2] == found[0]


@each_side
def test_callbacks_come_and_go(side: Side) -> None:
    events = Events()
    trainer = side()
    there = len(trainer.callback_handler.callbacks)
    assert any(isinstance(each, PrinterCallback) for each in trainer.callback_handler.callbacks)
    trainer.add_callback(events)
    trainer.add_callback(EarlyStoppingCallback)
    assert trainer.pop_callback(EarlyStoppingCallback).early_stopping_patience == 1
    assert trainer.pop_callback(EarlyStoppingCallback) is None
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ProgressCallback)
    assert len(trainer.callback_handler.callbacks) == there + 1
    trainer.remove_callback(events)
    trainer.train()
    assert events.seen == []


class Stopping(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 2


class StoppingEpochs(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_epoch_stop = True


@each_side
def test_callbacks_stop_trainings_and_epochs(side: Side) -> None:
    trainer = side({"max_steps": 8, "logging_steps": 2}, callbacks=[Stopping()])
    assert trainer.train().global_step == 2
    assert [row["step"] for row in sides.history(trainer)] == [2, 2]
    assert side({"max_steps": -1, "num_train_epochs": 3}, callbacks=[StoppingEpochs()]).train().global_step == 3


def early(side: Side, folder: str, **settings: Any) -> Trainer:
    return side(
        {
            "output_dir": folder,
            "metric_for_best_model": "loss",
            "load_best_model_at_end": True,
            "eval_strategy": "steps",
            "eval_steps": 1,
            "save_strategy": "steps",
            "save_steps": 1,
            "learning_rate": 3.0,
            "max_steps": 8,
            **settings,
        },
        callbacks=[EarlyStoppingCallback(2, 0.1)],
    )


def test_early_stopping_stops_where_the_trainers_does(tmp_path) -> None:
    runs = {name: early(side, str(tmp_path / name)) for name, side in sides.SIDES.items()}
    for trainer in runs.values():
        trainer.train()
        assert trainer.state.global_step < 8, "this run is made to get worse"
    stock, ours = runs["stock"], runs["ours"]
    sides.assert_same_run(ours, stock)
    assert ours.state.best_metric == pytest.approx(stock.state.best_metric, rel=1e-6)
    assert ours.state.best_global_step == stock.state.best_global_step
    assert tiny.distance(ours.model, stock.model) < 1e-6, "the best model is back"


class Counting(TrainerCallback, ExportableState):
    """A callback with a state."""

    def __init__(self, steps: int = 0) -> None:
        self.steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps += 1

    def state(self) -> dict[str, Any]:
        return {"args": {"steps": self.steps}, "attributes": {}}


@each_side
def test_states_of_callbacks_come_back(side: Side, tmp_path) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"}
    given = {"output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 2, **evaluated}
    side({**given, "max_steps": 2}, callbacks=[Counting(), EarlyStoppingCallback(5, 0.2)]).train()
    resumed = side(
        {**given, "max_steps": 4, "restore_callback_states_from_checkpoint": True},
        callbacks=[EarlyStoppingCallback(), Counting()],
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    counting, stopping = resumed.pop_callback(Counting), resumed.pop_callback(EarlyStoppingCallback)
    assert (counting.steps, stopping.early_stopping_patience, stopping.early_stopping_threshold) == (4, 5, 0.2)
    assert resumed.state.global_step == 4
