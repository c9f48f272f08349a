"""The floor with the last layer of a classifier computed for every position."""

from __future__ import annotations

from torch import nn

from peers.implementations import floor
from peers.turns import Batches
from peers.workloads import Workload


def run(workload: Workload, teacher: nn.Module, student: nn.Module, data: Batches) -> None:
    floor.train(workload, teacher, student, data, cut=False)
