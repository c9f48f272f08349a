"""A run of three stages that is killed anywhere ends as the one that was not, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback

from hf_distill.runs import run, stages, training
from tests import tiny_runs

ARGUMENTS = {
    "per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-3, "use_cpu": True,
    "disable_tqdm": True, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "no", "logging_steps": 1,
}  # fmt: skip
WIDE = {"hidden_mse": {"layer_map": "final"}, "name": "wide"}
NAMES = ("01-hints", "02-middle", "03-last")
STEPS = 6  # 24 rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Stages that hand on a projection by its term's name, and one that begins with a term of its own."""
    home = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(home / "teacher")
    tiny_runs.save_base(home / "narrow", seed=3, hidden=8, layers=2)
    tiny_runs.write_sst2(home / "sst2")
    hints = [WIDE]
    middle = [WIDE, {"hidden_mse": {"layer_map": [[1, 1]]}, "name": "other", "weight": 0.5}, {"labels": {}}]
    last = [{"soft_targets": {}}, WIDE]
    layers = [{"layers": [0, 1, 2]}]
    slow = [{"parameters": "^classifier|pooler"}, {"parameters": "layer", "learning_rate_scale": 0.1}]
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"model": str(home / "narrow")},
        "stages": [
            {"name": "hints", "objectives": hints, "train": layers, "arguments": ARGUMENTS},
            {"name": "middle", "objectives": middle, "arguments": ARGUMENTS},
            {"name": "last", "objectives": last, "train": slow, "arguments": ARGUMENTS},
        ],
    }


@pytest.fixture(scope="module")
def whole(made: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "out"
    run(made, folder, evaluate=False)
    return folder


class Kill(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


def inside(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    """Killed after a step of a stage."""
    make = stages._trainer

    def doomed(job: Any, *args: Any) -> Any:
        trainer = make(job, *args)
        if job.folder.name == name:
            trainer.add_callback(Kill(step))
        return trainer

    monkeypatch.setattr(stages, "_trainer", doomed)


def before_the_mark(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    """Killed when all of a stage is on disk but the mark that says so."""
    write = stages.write_json

    def doomed(path: Path, value: Any) -> None:
        if path.parent.name == name:
            raise KeyboardInterrupt
        write(path, value)

    monkeypatch.setattr(stages, "write_json", doomed)


def behind_the_mark(monkeypatch: pytest.MonkeyPatch, name: str, step: int) -> None:
    """Killed between two stages."""
    train = stages.train_stage

    def doomed(job: Any, *args: Any) -> None:
        train(job, *args)
        if job.folder.name == name:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_stage", doomed)


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(log: Path) -> list[tuple[int, float]]:
    found = stages.read_json(log) or {}
    return [(entry["step"], entry["loss"]) for entry in found["log_history"] if "loss" in entry]


def test_the_stages_differ_and_hand_on_what_they_learned(whole: Path) -> None:
    """Else the tests below would show little."""
    students = [load_file(whole / "stages" / name / "model.safetensors") for name in NAMES]
    assert not same(students[0], students[1])
    assert not same(students[1], students[2])
    learned = [load_file(whole / "stages" / name / "distillation.safetensors") for name in NAMES]
    assert {name.split(".")[0] for name in learned[1]} == {"wide", "other"}
    assert not torch.equal(learned[0]["wide.projections.0.weight"], learned[2]["wide.projections.0.weight"])
    assert len(losses(whole / "stages" / NAMES[1] / "trainer_state.json")) == STEPS


def slow(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kill", "name", "step", "started"),
    [
        (inside, "02-middle", 3, [("02-middle", "checkpoint-2"), ("03-last", None)]),
        (before_the_mark, "02-middle", 6, [("02-middle", "checkpoint-6"), ("03-last", None)]),
        slow(inside, "01-hints", 1, [("01-hints", None), ("02-middle", None), ("03-last", None)]),
        slow(behind_the_mark, "02-middle", 6, [("03-last", None)]),
        slow(inside, "03-last", 5, [("03-last", "checkpoint-4")]),
    ],
)
def test_a_killed_run_ends_like_the_one_that_was_not(
    made: dict[str, Any],
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kill: Any,
    name: str,
    step: int,
    started: list[tuple[str, str | None]],
) -> None:
    folder = tmp_path / "out"
    kill(monkeypatch, name, step)
    with pytest.raises(KeyboardInterrupt):
        run(made, folder, evaluate=False)
    assert not (folder / "model.safetensors").exists()
    monkeypatch.undo()
    found: list[tuple[str, str | None]] = []
    train = stages.StageTrainer.train

    def noted(trainer: Any, resume_from_checkpoint: Any = None) -> Any:
        checkpoint = resume_from_checkpoint and Path(resume_from_checkpoint).name
        found.append((Path(trainer.args.output_dir).name, checkpoint))
        return train(trainer, resume_from_checkpoint=resume_from_checkpoint)

    monkeypatch.setattr(stages.StageTrainer, "train", noted)
    run(made, folder, evaluate=False)
    assert found == started
    for place in (*(Path("stages", each) for each in NAMES), Path()):
        for file in ("model.safetensors", "distillation.safetensors"):
            assert same(load_file(folder / place / file), load_file(whole / place / file)), place / file
        assert losses(folder / place / "trainer_state.json") == losses(whole / place / "trainer_state.json")
