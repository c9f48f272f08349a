"""DeepSpeed on two gloo processes ends as one process does, is saved whole and goes on exactly.

Run where DeepSpeed is installed (`pip install deepspeed`), with DS_ACCELERATOR=cpu: the first run compiles its
exchange, minutes of g++, into TORCH_EXTENSIONS_DIR.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill import DistillationTrainer
from tests.distributed.damaging import finds_every_damage
from tests.distributed.train_in_shards import trained, write_models
from tests.distributed.train_with_deepspeed import KINDS
from tests.processes import on_processes

HERE = find_spec("deepspeed") is not None and os.environ.get("DS_ACCELERATOR") == "cpu"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not HERE, reason="needs deepspeed, and DS_ACCELERATOR=cpu")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave, one launch for each kind, as DeepSpeed's configuration stays in a process."""
    made = tmp_path_factory.mktemp("deepspeed")
    write_models(made)
    for kind in KINDS:
        on_processes(Path(__file__).with_name("train_with_deepspeed.py"), made, kind)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> DistillationTrainer:
    """The training of one process, clipped to the same norm."""
    plain = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.5}
    trainer = trained(folder, "student", **plain)
    trainer.save_model(str(folder / "alone"))
    return trainer


@pytest.mark.parametrize("kind", [name + suffix for name in KINDS for suffix in ("", "-resumed")])
def test_two_processes_end_as_one(folder: Path, alone: DistillationTrainer, kind: str) -> None:
    """Clipped at 0.5, not at 1 as DeepSpeed would without a word of it."""
    for name in ("model.safetensors", "distillation.safetensors"):
        ours, theirs = load_file(folder / kind / name), load_file(folder / "alone" / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6, msg=lambda m, k=key: f"{kind}: {k}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_are_those_of_one(folder: Path, alone: DistillationTrainer, kind: str) -> None:
    told = float((folder / f"{kind}.eval_loss").read_text())
    assert told == pytest.approx(alone.evaluate()["eval_loss"], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_model_comes_back(folder: Path, kind: str) -> None:
    """The student and what the objectives learned, out of the engine's checkpoint."""
    for name in ("model.safetensors", "distillation.safetensors"):
        places = (f"{kind}-best", f"{kind}-best/checkpoint-2", f"{kind}-best/checkpoint-4")
        ours, best, last = (load_file(folder / each / name) for each in places)
        assert all(torch.equal(tensor, best[key]) for key, tensor in ours.items())
        assert not all(torch.equal(tensor, last[key]) for key, tensor in ours.items())


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_of_a_checkpoint_is_looked_over(folder: Path, kind: str) -> None:
    """Also those of the engine."""
    finds_every_damage(folder / f"{kind}-run" / "checkpoint-2")
