"""What follows a training as it goes on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from hf_distill import checks

if TYPE_CHECKING:
    from hf_distill.trainer import DistillationTrainer

logger = logging.getLogger(__name__)


class EpochOrder(TrainerCallback):  # type: ignore[misc]
    """Tells samplers that make their own order which epoch it is."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.set_epoch(int(state.epoch or 0))


class EpochSaves(TrainerCallback):  # type: ignore[misc]
    """Puts the checkpoint of an epoch's last step behind what is due at the epoch's end: an evaluation draws from the
    generators, and a run that goes on from before it begins with the next epoch.
    """

    def __init__(self) -> None:
        self._is_due = False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        at_end = IntervalStrategy.EPOCH in (args.eval_strategy, args.logging_strategy)
        if control.should_save and at_end and ends_epoch(state):
            control.should_save, self._is_due = False, True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save, self._is_due = control.should_save or self._is_due, False


def ends_epoch(state: Any) -> bool:
    """Whether the step that was just made is the last one of its epoch, or of all."""
    return float(state.epoch or 0.0).is_integer() or bool(state.global_step >= state.max_steps)


class StepWeights(TrainerCallback):  # type: ignore[misc]
    """Puts the weights of a step in place before its first micro-batch; they follow from the step alone."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        checks.fits_steps(self._trainer, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._trainer.distillation.weights.set(state.global_step / max(state.max_steps, 1))
        self._trainer._monitor.begin()


class Following(TrainerCallback):  # type: ignore[misc]
    """Tells the teacher that the student has moved, and that an epoch is over; at the end the terms have a word."""

    def __init__(self, trainer: DistillationTrainer) -> None:
        self._trainer = trainer

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.teacher is not None:
            self._trainer.teacher.after_step(int(state.global_step))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._trainer.teacher is not None:
            self._trainer.teacher.after_epoch()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for conclusion in self._trainer.distillation.conclusions():
            logger.warning("%s", conclusion)
