"""A run of three stages in a process of its own, killed by the system in the second one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests import tiny_runs

RUN = """
import json, sys
from hf_distill import run
print("ready", flush=True)
run(json.loads(sys.argv[1]), sys.argv[2], evaluate=False)
"""


def process(recipe: dict[str, Any], folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, json.dumps(recipe), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def made(home: Path) -> dict[str, Any]:
    tiny_runs.save_teacher(home / "teacher")
    tiny_runs.save_base(home / "narrow", seed=3, hidden=8, layers=2)
    tiny_runs.write_sst2(home / "sst2", train=160)
    wide = {"hidden_mse": {"layer_map": "final"}, "name": "wide"}
    arguments = {
        "per_device_train_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-3, "use_cpu": True,
        "save_strategy": "steps", "save_steps": 5, "eval_strategy": "no",
    }  # fmt: skip
    stages = [
        {"name": name, "objectives": [wide, {"labels": {}}], "arguments": arguments}
        for name in ("one", "two", "three")
    ]
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"model": str(home / "narrow")},
        "stages": stages,
    }


@pytest.mark.slow
def test_a_run_killed_in_its_second_stage_ends_bit_by_bit_as_the_whole_one(tmp_path: Path) -> None:
    """The kill comes as soon as that stage has written anything, at whatever instant that is."""
    recipe = made(tmp_path / "home")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    told, errors = process(recipe, whole).communicate(timeout=500)
    assert "ready" in told, errors
    first = process(recipe, broken)
    second = broken / "stages" / "02-two"
    pause = threading.Event()
    while not second.exists() and first.poll() is None:
        pause.wait(0.01)
    first.kill()
    first.communicate()
    assert first.returncode == -signal.SIGKILL
    assert (broken / "stages" / "01-one" / "stage.json").exists()
    assert not (second / "stage.json").exists()
    again = process(recipe, broken)
    told, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors
    for place in ("stages/01-one", "stages/02-two", "stages/03-three", "."):
        for name in ("model.safetensors", "distillation.safetensors"):
            ours, theirs = load_file(broken / place / name), load_file(whole / place / name)
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[key], theirs[key]) for key in ours), f"{place}/{name}"
