"""A language model's cache by four processes of `accelerate launch`, killed at work and gone on with by two."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from hf_distill.teachers import Cached

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests" / "distributed" / "write_a_language_models_cache.py"


def launch(processes: int, folder: Path, pause: float, student: Path) -> subprocess.Popen[str]:
    launcher = [
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
    ]  # fmt: skip
    command = [
        sys.executable,
        *(launcher if processes > 1 else ()),
        str(SCRIPT),
        str(folder),
        str(pause),
        str(student),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)


def finish(process: subprocess.Popen[str]) -> None:
    said, _ = process.communicate(timeout=550)
    assert process.returncode == 0, said[-3000:]


@pytest.mark.slow
def test_four_processes_are_killed_and_two_go_on(tmp_path: Path) -> None:
    broken = launch(4, tmp_path / "broken", 3.0, tmp_path / "never")
    pause = threading.Event()
    while not (tmp_path / "broken" / "shard-00005.safetensors").exists() and broken.poll() is None:
        pause.wait(0.01)
    launcher = psutil.Process(broken.pid)
    for process in (*launcher.children(recursive=True), launcher):  # each rank has a session of its own
        process.kill()
    broken.communicate()
    left = Cached(tmp_path / "broken")
    assert 10 <= len(left.reader) < 48
    finish(launch(2, tmp_path / "broken", 0.0, tmp_path / "two"))
    finish(launch(1, tmp_path / "whole", 0.0, tmp_path / "one"))
    again, whole = Cached(tmp_path / "broken"), Cached(tmp_path / "whole")
    assert again.facts.digest == whole.facts.digest
    assert len(again.reader) == len(whole.reader) == 48
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-6)
