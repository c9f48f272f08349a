"""A process that is asked to stop saves at the end of the step, and goes on as if it had not been asked."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from hf_distill import DistillationTrainer
from hf_distill.errors import DistillationError, Preempted
from tests.test_exact_resume import state, trainer_of, values


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """It is the same behind every test."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


class Ask(TrainerCallback):
    """The signal comes between the gradients and the update of a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


def made(folder: Path, ask: int | None = None, **arguments: Any) -> DistillationTrainer:
    given = {"save_strategy": "no", "enable_jit_checkpoint": True, "eval_strategy": "epoch", **arguments}
    trainer = trainer_of(folder, arguments=given)
    if ask is not None:
        trainer.add_callback(Ask(ask))
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> DistillationTrainer:
    trainer = made(tmp_path_factory.mktemp("whole"))
    trainer.train()
    return trainer


@pytest.mark.parametrize(("step", "arguments"), [(2, {}), (4, {}), (4, {"save_strategy": "epoch"}), (7, {})])
def test_it_saves_and_goes_on_exactly(
    step: int, arguments: dict[str, Any], whole: DistillationTrainer, tmp_path: Path
) -> None:
    """In the middle of an epoch; at its end, where an evaluation is due, and here and there a save; in the last
    step."""
    trainer = made(tmp_path, step, **arguments)
    with pytest.raises(Preempted, match=rf"step {step} is saved") as caught:
        trainer.train()
    assert caught.value.code == 75
    assert [path.name for path in tmp_path.iterdir()] == [f"checkpoint-{step}"]
    assert sum("eval_loss" in row for row in trainer.state.log_history) == int(step >= 4) + int(step == 7)
    again = made(tmp_path, **arguments)
    again.train(resume_from_checkpoint=True)
    expected, found = state(whole), state(again)
    assert not [name for name in found if not torch.equal(found[name], expected[name])]
    assert values(again) == values(whole)


def test_the_trainers_own_callback_has_gone(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    trainer = made(tmp_path)
    assert not [each for each in trainer.callback_handler.callbacks if isinstance(each, JITCheckpointCallback)]
    assert signal.getsignal(signal.SIGTERM) is before, "until it trains"


def test_an_error_gives_the_signal_back(tmp_path: Path) -> None:
    class Fail(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, before)
            raise KeyError("made up")

    before = signal.getsignal(signal.SIGTERM)
    trainer = made(tmp_path)
    trainer.add_callback(Fail())
    with pytest.raises(KeyError):
        trainer.train()


def test_another_try_with_a_smaller_batch_keeps_the_signal_and_gives_it_back(tmp_path: Path) -> None:
    """`auto_find_batch_size` begins to train anew, and a signal that came before that still counts."""
    before = signal.getsignal(signal.SIGTERM)
    trainer = made(tmp_path, auto_find_batch_size=True, max_steps=5)
    plain, calls = trainer.compute_loss, []

    def fails_once(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            raise RuntimeError("CUDA out of memory.")
        return plain(*args, **kwargs)

    trainer.compute_loss = fails_once  # type: ignore[method-assign]
    with pytest.raises(Preempted, match="step 1 is saved"):
        trainer.train()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_trains_without_it(tmp_path: Path) -> None:
    """Only the main thread may ask for signals."""
    trainer = made(tmp_path, max_steps=1)
    thread = threading.Thread(target=trainer.train)
    thread.start()
    thread.join()
    assert trainer.state.global_step == 1


def test_it_is_no_error_that_is_reported_or_caught() -> None:
    error = Preempted("asked to stop")
    assert not isinstance(error, Exception)
    assert not isinstance(error, DistillationError)
    assert (error.code, str(error)) == (75, "asked to stop")
