"""Students and teachers in shards (FSDP2) on two gloo processes end as in one, are saved whole and go on exactly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from hf_distill import DistillationTrainer
from tests.distributed.train_in_shards import KINDS, trained, write_models

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave."""
    made = tmp_path_factory.mktemp("shards")
    write_models(made)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(Path(__file__).with_name("train_in_shards.py"))
    done = subprocess.run([*command, script, str(made)], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> DistillationTrainer:
    """The training of one process."""
    trainer = trained(folder, "student")
    trainer.save_model(str(folder / "alone"))
    return trainer


@pytest.mark.parametrize("kind", [*KINDS, "resumed", "run/checkpoint-4"])
def test_two_processes_end_as_one(folder: Path, alone: DistillationTrainer, kind: str) -> None:
    for name in ("model.safetensors", "distillation.safetensors"):
        ours, theirs = load_file(folder / kind / name), load_file(folder / "alone" / name)
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=0, atol=1e-6, msg=lambda m, k=key: f"{kind}: {k}: {m}")


@pytest.mark.parametrize("kind", KINDS)
def test_evaluations_are_those_of_one(folder: Path, alone: DistillationTrainer, kind: str) -> None:
    told = float((folder / f"{kind}.eval_loss").read_text())
    assert told == pytest.approx(alone.evaluate()["eval_loss"], abs=1e-6)


def test_what_is_saved_loads_anywhere(folder: Path, alone: DistillationTrainer) -> None:
    """Whole tensors under the student's own names, and no trace of the shards in the configuration."""
    model, report = BertForSequenceClassification.from_pretrained(folder / "both", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for ours, theirs in zip(model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
    assert "distributed_config" not in json.loads((folder / "both" / "config.json").read_text())


def test_a_checkpoint_in_shards_goes_on_in_one_process(folder: Path, alone: DistillationTrainer) -> None:
    """Its optimizer is one of whole tensors, which needs as many processes as there are."""
    state = torch.load(folder / "run" / "checkpoint-4" / "optimizer.pt", weights_only=True)
    moments = {name: each["exp_avg"] for name, each in state["state"].items()}
    parameters = dict(alone.distillation.named_parameters())
    assert moments.keys() == {name for name, each in parameters.items() if each.requires_grad}
    for name, moment in moments.items():
        ours = alone.optimizer.state[parameters[name]]["exp_avg"]
        torch.testing.assert_close(moment, ours, rtol=0, atol=1e-6, msg=name)
