"""Turns: an implementation in a process of its own takes one step each time it is told to.

The parent writes a line to the worker's standard input; the worker takes one step and answers with one line of JSON on
what was its standard output. A step lies between two requests for a batch, so everything that a framework does between
them is inside. A framework that asks for its batches one ahead shifts the steps by one, no more.

Steps of a worker: `WARM` warm ones; one that measures memory; one that counts operators and FLOPs; `SETTLING` ones;
then timed ones, as many as the parent asks for. The worker ends when its standard input does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Protocol, TextIO

import torch
from torch import Tensor

from peers.probes import MemoryProbe, Probe, WorkProbe

WARM, SETTLING = 3, 2
MEMORY_TURN = WARM + 1
COUNTING_TURN = WARM + 2
PREPARATION = COUNTING_TURN + SETTLING
"""Turns before the timed ones."""
ENDLESS = 1_000_000
"""Steps that a framework is told to take; the parent ends it long before."""


class Channel:
    """The worker's end: what frameworks print goes to standard error."""

    def __init__(self) -> None:
        self._answers: TextIO = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def answer(self, **message: Any) -> None:
        self._answers.write(json.dumps(message) + "\n")
        self._answers.flush()

    def wait(self) -> None:
        if not sys.stdin.readline():
            os._exit(0)  # from inside whatever framework is running


@dataclass
class Clock:
    """Marks every request for a batch."""

    channel: Channel
    turn: int = 0
    facts: dict[str, float] = field(default_factory=dict)
    _probe: Probe | None = None
    _started: float = 0.0

    def tick(self) -> None:
        seconds = time.process_time() - self._started
        if self._probe is not None:
            self.facts |= self._probe.close()
        self.channel.answer(turn=self.turn, seconds=seconds, **self.facts)
        self.channel.wait()
        self.turn += 1
        self._probe = self._open()
        self._started = time.process_time()

    def _open(self) -> Probe | None:
        if self.turn == MEMORY_TURN:
            return MemoryProbe()
        return WorkProbe() if self.turn == COUNTING_TURN else None


class Ticking(Protocol):
    def tick(self) -> None: ...


class Batches(torch.utils.data.Dataset):
    """Ready-made batches, cycled; asking for one ends a step and begins the next. `arguments` are further training
    arguments for the implementations on the Hugging Face Trainer."""

    def __init__(self, batches: list[dict[str, Tensor]], clock: Ticking, **arguments: Any) -> None:
        self.batches, self.clock, self.arguments = batches, clock, arguments

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.clock.tick()
        return dict(self.batches[index % len(self.batches)])
