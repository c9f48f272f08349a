"""A recipe that `hf-distill doctor` writes runs as it is, and the benchmark of its foresight does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_distill.commands.main import main
from hf_distill.hub.record import Record
from tests import tiny_runs

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def test_a_starting_recipe_runs_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the cost measured on the way, which leaves nothing behind."""
    teacher = tiny_runs.save_teacher(tmp_path / "teacher")
    data = tiny_runs.write_sst2(tmp_path / "sst2")
    recipe, out = tmp_path / "start.yaml", tmp_path / "out"
    flags = ["--teacher", teacher, "--student_layers", 1, "--task_name", "sst2", "--dataset_dir", data]
    assert main(["doctor", *map(str, flags), "--batch_size", "4", "--write", str(recipe)]) == 0
    told = capsys.readouterr().out
    assert "4 rows of 32 tokens: " in told
    assert " CPU seconds, " in told
    train = ["--do_train", "--do_eval", "--use_cpu", "--report_to", "none"]
    assert main(["glue", "--recipe", str(recipe), "--output_dir", str(out), *train]) == 0
    assert [each.objective for each in Record.read(out).objectives] == ["soft_targets", "labels"]


def test_the_benchmark_of_doctor(tmp_path: Path) -> None:
    output = tmp_path / "doctor.json"
    script = ROOT / "scripts" / "benchmarks" / "doctor.py"
    flags = ["w1", "w3", "--scale", "0.1", "--rounds", "1", "--output", str(output)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, str(script), *flags], check=True, env=environment)
    for found in json.loads(output.read_text(encoding="utf-8")).values():
        said, seen = found["foretold"], found["seen"]
        assert min(said["seconds"], seen["seconds"]) > 0
        assert said["megabytes"] == pytest.approx(seen["megabytes"], rel=0.3)
