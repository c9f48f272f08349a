"""Rounds of turns over several workers, and what they give."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peers.catalogue import CATALOGUE
from peers.environments import python_of
from peers.turns import PREPARATION
from peers.workloads import Workload

ROOT = Path(__file__).parents[3]
"""Where the package that is measured lies."""


class WorkerFailed(SystemExit):
    """A worker ended by itself; the message has the end of its log."""


class Worker:
    """One implementation in its process, waiting for its turn."""

    def __init__(self, name: str, workload: str, scale: float, threads: int, python: Path, folder: Path) -> None:
        self.name = name
        self.gradient = folder / f"{name}.pt"
        self._log = folder / f"{name}.log"
        command = [str(python), "-m", "peers.worker", name, workload, str(scale), str(self.gradient)]
        with self._log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment(threads),
            )
        self._answer()  # it stands before its first batch

    def turn(self) -> dict[str, Any]:
        """One step."""
        try:
            os.write(self._process.stdin.fileno(), b"go\n")  # nothing is left in a buffer if the worker is gone
        except BrokenPipeError:
            raise self._failure() from None
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            raise self._failure()
        return json.loads(line)

    def _failure(self) -> WorkerFailed:
        self._process.wait()
        tail = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-15:]
        return WorkerFailed("\n".join([f"{self.name} ended with status {self._process.returncode}:", *tail]))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def environment(threads: int) -> dict[str, str]:
    """Threads that wait must not count as work, and nothing asks the network."""
    paths = [str(Path(__file__).parents[1]), str(ROOT)]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONWARNINGS": "ignore",
    }


@dataclass
class Measured:
    """What was seen of one implementation: facts of one step, and CPU seconds of every timed one by round."""

    facts: dict[str, float] = field(default_factory=dict)
    rounds: list[list[float]] = field(default_factory=list)
    gradient: Path | None = None


def rotated(names: Sequence[str], rounds: int) -> Iterator[list[str]]:
    for number in range(rounds):
        shift = number % len(names)
        yield [*names[shift:], *names[:shift]]


def measure(
    workload: Workload, scale: float, names: Sequence[str], rounds: int, environments: Path | None, folder: Path
) -> dict[str, Measured]:
    """Starts every implementation, takes them through their preparation one after the other, and then lets them take
    turns step by step, in an order that rotates from round to round. Gradients are left in `folder`."""
    found = {name: Measured() for name in names}
    with ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for name in names:
            python = python_of(CATALOGUE[name], environments)
            worker = Worker(name, workload.name, scale, workload.threads, python, folder)
            stack.callback(worker.close)
            workers[name] = worker
            for _ in range(PREPARATION):
                answer = worker.turn()
            found[name].facts = {key: value for key, value in answer.items() if key not in ("turn", "seconds")}
            found[name].gradient = worker.gradient
        for order in rotated(names, rounds):
            seconds: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(workload.steps):
                for name in order:
                    seconds[name].append(workers[name].turn()["seconds"])
            for name in names:
                found[name].rounds.append(seconds[name])
    return found


def temporary(folder: Path | None) -> tempfile.TemporaryDirectory[str]:
    """For logs and gradients, as large as the students together."""
    return tempfile.TemporaryDirectory(dir=folder)
