"""One implementation in a process of its own: `python -m peers.worker NAME WORKLOAD SCALE GRADIENT_FILE`."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from peers.catalogue import run_of
from peers.turns import Batches, Channel, Clock
from peers.workloads import WORKLOADS


def keep_first_gradient(student: nn.Module, file: Path) -> None:
    """Writes the student's gradient, as the first step of any optimizer finds it, by name of the parameter."""
    parameters = dict(student.named_parameters())

    def write(*_: object) -> None:
        if parameters:
            torch.save({name: p.grad for name, p in parameters.items() if p.grad is not None}, file)
            parameters.clear()

    register_optimizer_step_pre_hook(write)


def main() -> None:
    name, kind, scale, gradient = sys.argv[1:]
    workload = WORKLOADS[kind].scaled(float(scale))
    torch.set_num_threads(workload.threads)
    channel = Channel()
    run = run_of(name)
    teacher, student = workload.models()
    keep_first_gradient(student, Path(gradient))
    run(workload, teacher, student, Batches(workload.batches(), Clock(channel)))


if __name__ == "__main__":
    main()
