"""NaN and infinity in the student, the teacher, a cache and one objective: the run stops before they reach a weight,
and names step and objective. One rank of two is in `test_processes.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hf_distill import HiddenMSE, Labels, SoftTargets
from hf_distill.errors import NonFiniteLoss
from hf_distill.teachers import Cached
from hf_distill.teachers.cache import filling
from hf_distill.teachers.cache.signals import rows_of
from tests import tiny
from tests.faults.tiny_faults import Broken, trainer_for

OPTIMIZERS = pytest.mark.parametrize("optimizer", ["sgd", "adamw_torch_fused"])
"""One that is read before each step, and one that holds the step back on the device."""


class Spoiled:
    """A hook that puts a number into what a module gives at the call of number `at`."""

    def __init__(self, module: nn.Module, value: float, at: int) -> None:
        self.value, self.at, self.calls = value, at, 0
        module.register_forward_hook(self)

    def __call__(self, module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return output + self.value if self.calls == self.at else output


def stopped(trainer: Any) -> str:
    with pytest.raises(NonFiniteLoss) as caught:
        trainer.train()
    return str(caught.value)


def after_steps(number: int, optimizer: str, objectives: Any) -> nn.Module:
    """The student of a healthy run of so many steps."""
    arguments = {"max_steps": number, "optim": optimizer, "learning_rate": 1e-3}
    trainer = trainer_for(objectives=objectives, arguments=arguments)
    trainer.train()
    trained: nn.Module = trainer.model
    return trained


@OPTIMIZERS
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_in_the_student(optimizer: str, value: float) -> None:
    objectives = SoftTargets() + HiddenMSE(layer_map="final")
    arguments = {"max_steps": 4, "optim": optimizer, "learning_rate": 1e-3, "logging_steps": 4}
    trainer = trainer_for(objectives=objectives, arguments=arguments)
    Spoiled(trainer.model.classifier, value, at=2)
    text = stopped(trainer)
    assert text.startswith("step 2: the value of 'soft_targets' is NaN or infinite. The weights are those of step 1.")
    expected = after_steps(1, optimizer, SoftTargets() + HiddenMSE(layer_map="final"))
    assert tiny.distance(trainer.model, expected) == 0.0


@OPTIMIZERS
def test_in_the_teacher(optimizer: str) -> None:
    teacher = tiny.model("single_label", seed=2)
    with torch.no_grad():
        teacher.bert.encoder.layer[1].output.LayerNorm.bias[0] = float("nan")
    objectives = SoftTargets() + Labels() + HiddenMSE(layer_map=[[1, 1]])
    trainer = trainer_for(teacher=teacher, objectives=objectives, arguments={"optim": optimizer, "logging_steps": 2})
    assert stopped(trainer).startswith("step 1: the value of 'soft_targets' is NaN or infinite.")
    assert tiny.distance(trainer.model, tiny.model("single_label", seed=1)) == 0.0


@OPTIMIZERS
def test_in_one_objective_of_several(optimizer: str) -> None:
    arguments = {"max_steps": 4, "optim": optimizer, "learning_rate": 1e-3, "logging_steps": 4}
    trainer = trainer_for(objectives=Labels() + Broken(at=3), arguments=arguments)
    text = stopped(trainer)
    assert text.startswith("step 3: the value of 'broken' is NaN or infinite. The weights are those of step 2.")
    assert "rank" not in text
    assert tiny.distance(trainer.model, after_steps(2, optimizer, Labels() + Broken(at=0))) == 0.0


def test_in_a_micro_batch_of_a_window() -> None:
    arguments = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}
    trainer = trainer_for(objectives=Labels() + Broken(at=4), arguments=arguments)
    assert stopped(trainer).startswith("step 2: the value of 'broken'")


def test_in_a_cache_that_is_otherwise_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing refuses such numbers; a cache of another hand, whose digests are right, is found out in the step."""
    with monkeypatch.context() as patch:
        patch.setattr(filling, "rows_of", lambda *given: rows_of(*given) * float("nan"))
        trainer_for(objectives=SoftTargets()).cache_teacher(tmp_path / "cache")
    trainer = trainer_for(teacher=Cached(tmp_path / "cache"), objectives=SoftTargets() + Labels())
    assert stopped(trainer).startswith("step 1: the value of 'soft_targets' is NaN or infinite.")
