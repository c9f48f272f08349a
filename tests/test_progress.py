"""Tokens a second and the time left: counted from masks, summed over the log interval, and shown behind the bar."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import torch
from transformers import TrainerState

from hf_distill.objectives import SoftTargets, Terms
from hf_distill.runs import progress
from hf_distill.runs.progress import Pace, PaceBar, time_left
from hf_distill.runs.stages import StageTrainer
from tests import tiny


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is set: its last entry is the time."""
    times = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: times[-1])
    return times


def test_tokens_are_those_of_the_masks_since_the_last_reading(clock: list[float]) -> None:
    pace = Pace()
    pace.add({"input_ids": torch.zeros(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])})
    pace.add({"input_ids": torch.zeros(2, 3)})
    pace.add({"pixels": torch.zeros(2, 3)})
    clock.append(4.0)
    tokens, seconds = pace.read()
    assert (int(tokens), seconds) == (9, 4.0)  # type: ignore[arg-type]
    clock.append(5.0)
    assert pace.read() == (None, 1.0)


def test_the_time_left_is_that_of_the_steps_of_this_process(clock: list[float]) -> None:
    clock.append(130.0)
    assert time_left(done=20, to_do=50, start=30.0) == timedelta(seconds=250)
    assert time_left(done=0, to_do=3, start=30.0) == timedelta(seconds=300)


def test_the_bar_shows_both_after_a_log(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Gone on with at step 10 of 100: five steps in 20 seconds leave 85 steps, 340 seconds."""
    bar, state = PaceBar(), TrainerState(global_step=10, max_steps=100)
    state.is_world_process_zero = True
    bar.on_train_begin(None, state, None)
    state.global_step = 15
    clock.append(20.0)
    bar.on_log(None, state, None, logs={"loss": 1.0, "tokens_per_second": 12345.6})
    assert bar.training_bar.postfix == "12,346 tokens/s, 0:05:40 left"
    bar.on_log(None, state, None, logs={"eval_loss": 1.0})
    assert bar.training_bar.postfix == "12,346 tokens/s, 0:05:40 left"
    bar.on_train_end(None, state, None)
    capsys.readouterr()


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_stage_logs_the_real_tokens_of_its_steps(accumulation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading takes a second by this clock, so that the rate is the number of tokens."""
    ticks = iter(range(10_000))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: float(next(ticks)))
    rows = tiny.rows("masked_lm", 16)
    arguments: dict[str, Any] = {"max_steps": 2, "gradient_accumulation_steps": accumulation, "disable_tqdm": False}
    trainer = StageTrainer(
        model=tiny.model("masked_lm"),
        teacher=tiny.model("masked_lm", seed=1),
        objectives=Terms.of(SoftTargets()),
        args=tiny.arguments(per_device_train_batch_size=8 // accumulation, **arguments),
        train_dataset=rows,
        data_collator=tiny.Pad(3),
    )
    assert sum(isinstance(each, PaceBar) for each in trainer.callback_handler.callbacks) == 1
    rates: list[float] = []
    original = trainer._pace.read

    def read() -> Any:
        tokens, seconds = original()
        rates.append(float(tokens) / seconds)  # type: ignore[arg-type]
        return tokens, seconds

    monkeypatch.setattr(trainer._pace, "read", read)
    trainer.train()
    logged = [entry["tokens_per_second"] for entry in trainer.state.log_history if "loss" in entry]
    assert logged == rates
    lengths = [len(row["input_ids"]) for row in rows]
    seconds = [sum(lengths[i : i + 8]) / rate for i, rate in zip((0, 8), rates, strict=True)]
    assert all(second == pytest.approx(round(second)) and second >= 1 for second in seconds)
