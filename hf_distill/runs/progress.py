"""How fast a training run reads, what a step of it costs, and when it will be done."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from transformers.trainer_callback import ProgressCallback, TrainerCallback

TOKENS_PER_SECOND = "tokens_per_second"
"""The name in the logs."""

CPU_SECONDS = "train_cpu_seconds_per_step"
"""The name among the metrics of a finished training."""


class Pace:
    """Real tokens (those of the attention mask) of this process since the last reading.

    They are added up on the device, which nothing waits for before `read`.
    """

    def __init__(self) -> None:
        self._tokens: Tensor | None = None
        self._since = time.perf_counter()

    def add(self, batch: Mapping[str, Any]) -> None:
        """Counts the tokens of one micro-batch."""
        mask = batch.get("attention_mask", batch.get("input_ids"))
        if isinstance(mask, Tensor):
            number = mask.sum() if "attention_mask" in batch else torch.full((), mask.numel(), device=mask.device)
            self._tokens = number if self._tokens is None else self._tokens + number

    def read(self) -> tuple[Tensor | None, float]:
        """Tokens and seconds since the last reading, or since the start; begins anew."""
        now = time.perf_counter()
        tokens, seconds = self._tokens, now - self._since
        self._tokens, self._since = None, now
        return tokens, seconds


class CpuClock(TrainerCallback):  # type: ignore[misc]
    """CPU seconds of this process, all its threads, in a step: batches, models, losses, update.

    The first step, which also sets things up, and the evaluations and saves in between are left out.
    """

    def __init__(self) -> None:
        self._steps, self._seconds = 0, 0.0
        self._since: float | None = None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.process_time()
        if self._since is not None:
            self._steps, self._seconds = self._steps + 1, self._seconds + now - self._since
        self._since = now

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._leave_out()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._leave_out()

    def _leave_out(self) -> None:
        if self._since is not None:
            self._since = time.process_time()

    def read(self) -> dict[str, float]:
        """Seconds a step by their name among the metrics; empty where fewer than two steps were made here."""
        return {CPU_SECONDS: self._seconds / self._steps} if self._steps else {}


class PaceBar(ProgressCallback):  # type: ignore[misc]
    """The Trainer's progress bar, with tokens a second and the time left behind it.

    The time left follows from the steps of this process alone: of a run that goes on from a checkpoint, the steps
    before it took no time here. Evaluations and saves count, as they will come again.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self._first, self._start = state.global_step, time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        super().on_log(args, state, control, logs=logs, **kwargs)
        if self.training_bar is not None and TOKENS_PER_SECOND in (logs or {}):
            left = time_left(state.global_step - self._first, state.max_steps - state.global_step, self._start)
            self.training_bar.set_postfix_str(f"{logs[TOKENS_PER_SECOND]:,.0f} tokens/s, {left} left")


def time_left(done: int, to_do: int, start: float) -> timedelta:
    """The time that `to_do` steps take, as `done` steps since `start` (of `time.perf_counter`) took, in seconds."""
    return timedelta(seconds=round((time.perf_counter() - start) / max(done, 1) * to_do))
