"""One of two ranks is asked to stop: both save the same step, and go on from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

SCRIPT = Path(__file__).parent / "train_until_asked.py"


def ran(folder: Path, how: str = "", ranks: int = 2) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    done = subprocess.run(
        [*command, str(SCRIPT), str(folder), how], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_all_stop_at_the_same_step_and_go_on(tmp_path: Path) -> None:
    ran(tmp_path / "whole")
    told = ran(tmp_path / "broken", "2")
    saved = "asked to stop; step 3 is saved"
    assert f"rank 0: 75: {saved}" in told
    assert f"rank 1: 75: {saved}" in told
    (checkpoint,) = (tmp_path / "broken").glob("checkpoint-*")
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= set(manifest["files"])
    assert manifest["run"]["world_size"] == 2
    assert "world_size: 1, was 2" in ran(tmp_path / "broken", "alone", ranks=1)
    ran(tmp_path / "broken", "resume")
    for rank in (0, 1):
        found, expected = (load_file(tmp_path / name / f"end-{rank}.safetensors") for name in ("broken", "whole"))
        assert found.keys() == expected.keys()
        assert max(float((found[name] - expected[name]).abs().max()) for name in found) < 1e-6
