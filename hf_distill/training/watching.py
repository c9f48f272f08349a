"""What a `DistillationTrainer` logs, and how it stops at NaN and infinity."""

from __future__ import annotations

import logging
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn
from torch.nn.utils import get_total_norm
from transformers.trainer_utils import IntervalStrategy

from hf_distill.monitor import Monitor
from hf_distill.shards import whole
from hf_distill.training.binding import BoundTrainer

logger = logging.getLogger(__name__)


class Watching(BoundTrainer):
    """Overrides `_get_grad_norm`, behind which an optimizer step is held back that would carry NaN or infinity,
    `_maybe_log_save_evaluate`, before which that is looked at, and `log`, which adds the terms' values.
    """

    _monitor: Monitor
    _last_log: int

    def _begin_watch(self) -> None:
        """Starts anew, for the `Distillation` at hand."""
        distillation = self.distillation
        self._monitor = Monitor(
            distillation.columns,
            distillation.weights,
            self.args.device,
            reduce_sum=self._sum_over_ranks,
            gather=self.accelerator.gather if self.accelerator.num_processes > 1 else None,
        )
        self._last_log = self.state.global_step

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        alone = self.accelerator.distributed_type == DistributedType.NO and self.accelerator.scaler is None
        if grad_norm is None and alone:
            # Nothing is clipped; accelerate would still multiply every gradient, by 1.
            grad_norm = get_total_norm(self.distillation.gradients())
        norm = whole(super()._get_grad_norm(model, grad_norm=grad_norm))
        # A loss scaler meets infinite gradients by design, and skips them.
        scaled = self.accelerator.scaler is not None
        held_back = self._monitor.watch(None if scaled else torch.as_tensor(norm, device=self.args.device))
        optimizer: Any = getattr(self.optimizer, "optimizer", self.optimizer)
        if scaled:
            return norm
        if getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = held_back
        else:
            self._monitor.read(self.state.global_step + 1)
        return norm

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        control = self.control
        ending = control.should_training_stop or self.state.global_step >= self.state.max_steps
        if ending and self.args.logging_strategy != IntervalStrategy.NO:
            control.should_log = True  # the steps since the last log would never be seen
        if ending or control.should_log or control.should_save or control.should_evaluate:
            self._monitor.read(self.state.global_step)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the terms' values to a training log."""
        if self.is_in_train and "loss" in logs:
            steps = self.state.global_step - self._last_log
            logs.update(self._monitor.take(steps))
            self._last_log = self.state.global_step
            for remark in self.distillation.remarks():
                logger.warning("%s", remark)
        super().log(logs, start_time)
