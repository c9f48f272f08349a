"""A run that is killed by the system while it makes augmented rows, and while it writes a part of them down."""

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
from tests.test_augmented_stages import kept, recipe, texts

RUN = """
import json, sys, time
from hf_distill.runs import augmenting, run

augmenting.PART = 16
write = augmenting.write_json

def slowly(*given):
    time.sleep(float(sys.argv[3]))
    write(*given)

augmenting.write_json = slowly
run(json.loads(sys.argv[1]), sys.argv[2], evaluate=False)
"""


def process(asked: dict[str, Any], folder: Path, pause: float) -> subprocess.Popen[str]:
    """`pause` seconds pass between the rows of a part and what says that it is whole."""
    command = [sys.executable, "-c", RUN, json.dumps(asked), str(folder), str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed_when(pattern: str, folder: Path, running: subprocess.Popen[str]) -> None:
    pause = threading.Event()
    while not list(folder.glob(pattern)) and running.poll() is None:
        pause.wait(0.005)
    running.kill()
    _, errors = running.communicate()
    assert running.returncode == -signal.SIGKILL, errors


@pytest.mark.slow
def test_a_run_killed_while_it_augments_ends_bit_by_bit_as_the_whole_one(tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher", dropout=0.0)
    tiny_runs.save_masked_lm(tmp_path / "masked")
    tiny_runs.write_sst2(tmp_path / "sst2", train=96)
    asked, whole, broken = recipe(tmp_path), tmp_path / "whole", tmp_path / "broken"
    first = process(asked, whole, 0.0)
    _, errors = first.communicate(timeout=500)
    assert first.returncode == 0, errors
    killed_when("stages/augmented-*/00001", broken, process(asked, broken, 0.0))
    assert 2 <= len(kept(broken)) < 6
    killed_when("stages/augmented-*/.0000[2-5].part/*.arrow", broken, process(asked, broken, 1.0))
    assert list(broken.glob("stages/augmented-*/.*.part"))
    before = {path: (path / "part.json").stat().st_mtime_ns for path in kept(broken)}
    assert 2 <= len(before) < 6
    again = process(asked, broken, 0.0)
    _, errors = again.communicate(timeout=500)
    assert again.returncode == 0, errors
    assert len(kept(broken)) == 6
    assert all((path / "part.json").stat().st_mtime_ns == time for path, time in before.items())
    assert not list(broken.rglob("*.part"))
    assert texts(broken) == texts(whole)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (broken, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
