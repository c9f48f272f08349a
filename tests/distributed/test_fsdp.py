"""Accelerate's FSDP2 on two gloo processes ends as one process does, is saved whole and goes on exactly."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill import DistillationTrainer
from tests.distributed.damaging import finds_every_damage
from tests.distributed.train_in_shards import trained, write_models
from tests.processes import on_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave."""
    made = tmp_path_factory.mktemp("fsdp")
    write_models(made)
    on_processes(Path(__file__).with_name("train_with_fsdp.py"), made)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> DistillationTrainer:
    """The training of one process."""
    trainer = trained(folder, "student")
    trainer.save_model(str(folder / "alone"))
    return trainer


@pytest.mark.parametrize("kind", ["fsdp", "resumed", "run/checkpoint-4", "whole-resumed"])
def test_two_processes_end_as_one(folder: Path, alone: DistillationTrainer, kind: str) -> None:
    """The student and what the objectives learned are written whole, also where checkpoints hold shards."""
    for name in ("model.safetensors", "distillation.safetensors"):
        ours, theirs = load_file(folder / kind / name), load_file(folder / "alone" / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6, msg=lambda m, k=key: f"{kind}: {k}: {m}")


def test_evaluations_are_those_of_one(folder: Path, alone: DistillationTrainer) -> None:
    told = float((folder / "fsdp.eval_loss").read_text())
    assert told == pytest.approx(alone.evaluate()["eval_loss"], abs=1e-6)


def test_the_best_model_comes_back(folder: Path) -> None:
    """The student and what the objectives learned, out of the engine's shards."""
    for name in ("model.safetensors", "distillation.safetensors"):
        ours, best, last = (
            load_file(folder / each / name) for each in ("best", "best/checkpoint-2", "best/checkpoint-4")
        )
        assert all(torch.equal(tensor, best[key]) for key, tensor in ours.items())
        assert not all(torch.equal(tensor, last[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("run", ["run", "whole"])
def test_every_file_of_a_checkpoint_is_looked_over(folder: Path, run: str) -> None:
    """Also those in folders of shards."""
    finds_every_damage(folder / run / "checkpoint-2")
