"""What the texts cost that are written while a student trains."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from hf_distill.training.policy import Source

if TYPE_CHECKING:
    from hf_distill.training.binding import BoundTrainer

_LEAST_SECONDS = 1e-9


class Cost:
    """What writing has cost since the last log."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._since: float | None = None
        self._begin()

    def _begin(self) -> None:
        self._steps = {"student": 0, "teacher": 0, "data": 0}
        self._texts = self._tokens = self._ended = 0
        self._seconds = 0.0
        self._events: list[tuple[Any, Any]] = []

    def step(self, source: Source) -> None:
        """A step begins, on texts of this source."""
        if self._since is None:
            self._since = time.perf_counter()
        self._steps[source] += 1

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Takes the time of what is written meanwhile. On a GPU that is the time between two marks in its queue, so
        that what is still at work of the step before does not count; nothing waits for them before the log."""
        if self._device.type != "cuda":
            start = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start
            return
        event: Any = torch.cuda.Event
        marks = [event(enable_timing=True) for _ in range(2)]
        marks[0].record()
        yield
        marks[1].record()
        self._events.append((marks[0], marks[1]))

    def add(self, lengths: Sequence[int], ended: Sequence[int]) -> None:
        """The lengths of texts, and which of them came to an end."""
        self._texts += len(lengths)
        self._tokens += sum(lengths)
        self._ended += sum(ended)

    def _own(self) -> list[float]:
        for start, end in self._events:
            end.synchronize()
            self._seconds += start.elapsed_time(end) / 1000
        return [float(n) for n in (self._texts, self._tokens, self._ended, self._seconds)]

    def read(self, trainer: BoundTrainer) -> dict[str, float]:
        """What is logged, over all processes; begins anew."""
        now = time.perf_counter()
        passed = now - (now if self._since is None else self._since)
        summed = trainer._sum_over_ranks(torch.tensor(self._own(), device=self._device)).tolist()
        texts, tokens, ended, seconds = summed
        seconds /= trainer.accelerator.num_processes
        steps = max(sum(self._steps.values()), 1)
        found = {f"{name}_share": self._steps[name] / steps for name in ("student", "teacher")}
        if texts:
            found |= {
                "seconds": seconds,
                "share_of_time": seconds / max(passed, _LEAST_SECONDS),
                "texts": texts,
                "tokens": tokens,
                "tokens_per_second": tokens / max(seconds, _LEAST_SECONDS),
                "mean_length": tokens / texts,
                "ended_share": ended / texts,
            }
        self._begin()
        self._since = now
        return {f"on_policy/{name}": value for name, value in found.items()}
