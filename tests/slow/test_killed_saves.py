"""SIGKILL at random instants, a disk that is full, and SIGTERM to a script: what is gone on with is exact."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill import BrokenCheckpoint
from tests import tiny, tiny_runs
from tests.test_checkpoints import made, names

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.mark.skipif(sys.platform == "win32", reason="runs are forks")
def test_runs_that_are_killed_go_on_exactly(tmp_path: Path) -> None:
    """Half of the kills are aimed at a save."""
    script = ROOT / "scripts" / "benchmarks" / "kills.py"
    asked = ["--kills", "10", "--seed", "1", "--json", str(tmp_path / "kills.json")]
    done = subprocess.run([sys.executable, str(script), *asked], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "kills.json").read_text())
    assert (found["exact"], sum(found["left"].values())) == (10, 10)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 500 kB: there is room for one checkpoint, and for a part of the second."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(place)]
    if subprocess.run(mounting, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # the file that was cut off may be open yet


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="tmpfs is of Linux")
def test_a_disk_that_is_full(disk: Path, tmp_path: Path) -> None:
    whole = made(tmp_path / "whole")
    whole.train()
    sizes = [path.stat().st_size for path in (tmp_path / "whole" / "checkpoint-2").iterdir()]
    assert sum(sizes) < 480_000 < 2 * sum(sizes)
    with pytest.raises(
        BrokenCheckpoint, match=r"checkpoint-4 could not be written to .*disk/run \(.* bytes are free\)"
    ):
        made(disk / "run").train()
    assert names(disk / "run") == ["checkpoint-2"]
    subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
    again = made(disk / "run")
    again.train(resume_from_checkpoint=True)
    assert tiny.distance(again.distillation, whole.distillation) == 0.0


RUN = """
import os, signal, sys
from transformers import TrainerCallback
from hf_distill.commands.main import main
from hf_distill.runs import stages

class Ask(TrainerCallback):
    def on_substep_end(self, args, state, control, **kwargs):
        if state.global_step == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGTERM)

make = stages._trainer

def asked(*given):
    trainer = make(*given)
    trainer.add_callback(Ask())
    return trainer

stages._trainer = asked
raise SystemExit(main(sys.argv[2:]))
"""


def distil(home: Path, folder: Path, asked: int = -1) -> subprocess.CompletedProcess[str]:
    """`hf-distill glue`, which gets SIGTERM after so many steps, in the middle of the next one."""
    words = [
        sys.executable, "-c", RUN, str(asked), "glue", "--task_name", "sst2", "--dataset_dir", str(home / "sst2"),
        "--teacher_name_or_path", str(home / "teacher"), "--student_layers", "1", "--max_seq_length", "16",
        "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2", "--num_train_epochs", "2",
        "--use_cpu", "--save_strategy", "no", "--disable_tqdm", "true", "--do_train", "--output_dir", str(folder),
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are of Unix")
def test_a_script_that_is_asked_to_stop_says_so_and_goes_on(tmp_path: Path) -> None:
    """No save was asked for; the one at the signal is written all the same."""
    home = tmp_path / "home"
    tiny_runs.save_teacher(home / "teacher", layers=2)
    tiny_runs.write_sst2(home / "sst2")
    whole = distil(home, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    folder = tmp_path / "broken"
    asked = distil(home, folder, 4)
    assert asked.returncode == 75, asked.stderr
    assert "step 5 is saved; run again to go on" in asked.stderr
    assert "Traceback" not in asked.stderr
    assert [path.name for path in folder.glob("stages/01-*/checkpoint-*")] == ["checkpoint-5"]
    assert not list(folder.glob("stages/01-*/stage.json"))
    assert not (folder / "model.safetensors").exists()
    again = distil(home, folder)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stderr
    found, expected = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "whole"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
