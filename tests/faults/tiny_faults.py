"""What the tests of faults share: a tiny student and a tiny teacher, ready to train for two steps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hf_distill import DistillationTrainer
from hf_distill.activations import Needs, Signal
from hf_distill.objectives import Objective
from tests import tiny


def trainer_for(task: str = "single_label", *, arguments: Mapping[str, Any] | None = None, **given: Any) -> Any:
    settings = {
        "model": tiny.model(task, seed=1),
        "teacher": tiny.model(task, seed=2),
        "args": tiny.arguments(**{"max_steps": 2, "per_device_train_batch_size": 4, **(arguments or {})}),
        "train_dataset": tiny.rows(task, 8),
        "data_collator": tiny.Pad(),
    }
    return DistillationTrainer(**{**settings, **given})


class Broken(Objective):
    """The student's logits squared, times NaN at the call of number `at`."""

    name = "broken"
    needs_teacher = False

    def __init__(self, *, at: int = 2) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def needs(self) -> Needs:
        return Needs.of([Signal("logits")])

    def count(self, batch: Any, task: Any) -> int:
        return int(task.num_examples(batch))

    def forward(self, student: Any, teacher: Any, batch: Any) -> Tensor:
        self.calls += 1
        value: Tensor = student.logits.square().sum()
        return value * float("nan") if self.calls == self.at else value
