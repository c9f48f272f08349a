"""How a training stops that is asked to: with a checkpoint, at the end of a step."""

from __future__ import annotations

import logging
import signal
import threading
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_jit_checkpoint import JITCheckpointCallback

from hf_distill.errors import Preempted
from hf_distill.training.callbacks import ends_epoch

if TYPE_CHECKING:
    from hf_distill.trainer import DistillationTrainer

logger = logging.getLogger(__name__)


def stop_on_sigterm(trainer: DistillationTrainer) -> None:
    """Has a trainer write a checkpoint and leave with `Preempted` when the process gets SIGTERM while it trains.

    It takes the place of the Trainer's own callback (`enable_jit_checkpoint`), which waits for three seconds, saves
    between a step's gradient and its update, so that dropout is another afterwards, and then returns from `train()` as
    if all were done.
    """
    theirs = trainer.pop_callback(JITCheckpointCallback)
    if theirs is not None and theirs.jit_manager is not None:
        theirs.on_train_end(None, None, None)  # gives the signal back, which it took when it was made
    if not any(isinstance(each, StopOnSigterm) for each in trainer.callback_handler.callbacks):
        trainer.add_callback(StopOnSigterm(trainer))


def release_sigterm(trainer: DistillationTrainer) -> None:
    """Gives the signal back, however training ended."""
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, StopOnSigterm):
            callback.give_back()


class StopOnSigterm(TrainerCallback):  # type: ignore[misc]
    """Saves at the end of the step in which SIGTERM comes, behind an evaluation that is due then; at the end of an
    epoch behind what is due there. So the run that goes on does what it would have done.

    Several processes stop at the same step: the first that is asked tells all others with the next step. Workers of
    the data loader are forked with the handler, so that a signal to the whole process group does not end them before
    the step.
    """

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer
        self._asked = self._agreed = self._due = False
        self._told: _Told | None = None
        self._before: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._agreed = self._due = False
        self._told = None
        if self._before is None and threading.current_thread() is threading.main_thread():
            self._asked = False  # else this is another try with a smaller batch (auto_find_batch_size)
            self._before = signal.signal(signal.SIGTERM, self._ask)

    def give_back(self) -> None:
        """Puts the handler back that was there before training."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _ask(self, number: int, frame: Any) -> None:
        self._asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._agreed = self._agreed or self._all_know()
        if self._agreed and not ends_epoch(state):
            self._due = control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._agreed:
            self._due = control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._due:
            logger.warning("asked to stop (SIGTERM): step %d is saved; run again to go on", state.global_step)
            raise Preempted(f"asked to stop; step {state.global_step} is saved.")

    def _all_know(self) -> bool:
        if self._trainer.accelerator.num_processes == 1:
            return self._asked
        known = self._told is not None and self._told.read()
        self._told = _Told(self._trainer, self._asked)
        return known


class _Told:
    """Whether any process was asked to stop. It is read a step later, when it has long arrived, so that no process
    waits for its device."""

    def __init__(self, trainer: DistillationTrainer, asked: bool) -> None:
        device = trainer.args.device
        asking = trainer._sum_over_ranks(torch.full((1,), float(asked), device=device))
        self._arrival: Any = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._asking: Tensor = asking
        if self._arrival is not None:
            self._asking = torch.empty(1, pin_memory=True)
            self._asking.copy_(asking, non_blocking=True)
            self._arrival.record()

    def read(self) -> bool:
        """The same in all processes."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return bool(self._asking > 0)
