"""One of two ranks is asked to stop: both save the same step, and go on from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.processes import on_processes

SCRIPT = Path(__file__).parent / "train_until_asked.py"


def ran(folder: Path, how: str = "", ranks: int = 2) -> str:
    return on_processes(SCRIPT, folder, how, processes=ranks)


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
