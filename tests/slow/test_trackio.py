"""A run of two stages that trackio itself follows, on this machine alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_runs

pytestmark = pytest.mark.slow

TRAIN = """
import json, sys
from hf_distill import run
from trackio.sqlite_storage import SQLiteStorage

recipe, folder = json.loads(sys.argv[1]), sys.argv[2]
run(recipe, folder, evaluate=False)
logs = {name: SQLiteStorage.get_logs("hf-distill", name) for name in SQLiteStorage.get_runs("hf-distill")}
print("logs", json.dumps({name: [list(each) for each in found] for name, found in logs.items()}))
"""


def test_stages_are_runs_of_one_project(tmp_path: Path) -> None:
    settings = {"max_steps": 2, "logging_steps": 1, "eval_strategy": "no", "save_strategy": "no", "use_cpu": True}
    terms = [{"soft_targets": {"temperature": 2.0}, "weight": 0.5}, {"labels": {}, "weight": 0.5}]
    arguments = {**settings, "disable_tqdm": True, "report_to": "trackio"}
    recipe = {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(tiny_runs.write_sst2(tmp_path / "sst2")),
        "teacher": {"model": str(tiny_runs.save_teacher(tmp_path / "teacher"))},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": name, "objectives": terms, "arguments": arguments} for name in ("first", "second")],
    }
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-c", TRAIN, json.dumps(recipe), str(tmp_path / "student")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("logs ")]
    logs = json.loads(line.removeprefix("logs "))
    assert set(logs) == {"student-01-first", "student-02-second"}
    for found in logs.values():
        curves = [keys for keys in found if "train/objective/soft_targets" in keys]
        assert len(curves) == 2
        assert all({"train/loss", "train/weighted/labels", "train/tokens_per_second"} <= set(keys) for keys in curves)
