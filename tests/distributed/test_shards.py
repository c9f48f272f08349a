"""Students and teachers in shards (FSDP2) on two gloo processes end as in one, are saved whole and go on exactly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

from hf_distill import DistillationTrainer
from hf_distill.checkpoints.manifest import Manifest
from hf_distill.errors import BrokenCheckpoint
from tests.distributed.damaging import finds_every_damage
from tests.distributed.train_in_shards import KINDS, trained, trainer_of, write_models
from tests.processes import on_processes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave."""
    made = tmp_path_factory.mktemp("shards")
    write_models(made)
    trained(made, "student", save_strategy="steps", save_steps=2, output_dir=str(made / "one"))
    for processes in (2, 4):
        on_processes(Path(__file__).with_name("train_in_shards.py"), made, processes=processes)
    return made


@pytest.fixture(scope="module")
def alone(folder: Path) -> DistillationTrainer:
    """The training of one process."""
    trainer = trained(folder, "student")
    trainer.save_model(str(folder / "alone"))
    return trainer


@pytest.mark.parametrize("kind", [*KINDS, "resumed", "run/checkpoint-4", "four-resumed"])
def test_two_processes_end_as_one(folder: Path, alone: DistillationTrainer, kind: str) -> None:
    """Also where they go on from a checkpoint, and where four go on from one of two."""
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


def test_shards_and_whole_students_do_not_go_on_from_each_other(folder: Path) -> None:
    """Their optimizers have other groups; the teacher, whole or in shards, is the same."""
    with pytest.raises(BrokenCheckpoint, match=r"by an engine \(shards\) whose optimizer this one \(whole\) cannot"):
        trainer_of(folder, "student").train(resume_from_checkpoint=str(folder / "run" / "checkpoint-2"))
    assert "(whole) whose optimizer this one (shards) cannot read" in (folder / "read").read_text()
    manifests = [Manifest.read(folder / run / "checkpoint-2") for run in ("run", "one")]
    assert len({each.run["teacher"] for each in manifests if each is not None}) == 1


def test_the_best_model_comes_back(folder: Path) -> None:
    """The student and what the objectives learned."""
    for name in ("model.safetensors", "distillation.safetensors"):
        ours, best, last = (
            load_file(folder / each / name) for each in ("best", "best/checkpoint-2", "best/checkpoint-4")
        )
        assert all(torch.equal(tensor, best[key]) for key, tensor in ours.items())
        assert not all(torch.equal(tensor, last[key]) for key, tensor in ours.items())


def test_every_file_of_a_checkpoint_is_looked_over(folder: Path) -> None:
    finds_every_damage(folder / "run" / "checkpoint-2")


def test_a_teacher_in_shards_is_not_cached_by_shares(folder: Path) -> None:
    assert "the teacher is in shards" in (folder / "cached").read_text()
    assert not (folder / "cache").exists()
