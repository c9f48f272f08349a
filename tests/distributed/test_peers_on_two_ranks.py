"""Models that train together on two processes, and states that flow into a student there, end as on one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.train_peers import KINDS, state, trained


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(Path(__file__).parent / "train_peers.py")
    done = subprocess.run(
        [*command, script, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for kind in KINDS:
        expected = state(trained(kind, per_device_train_batch_size=8))
        for rank in (0, 1):
            found = load_file(tmp_path / f"{kind}-{rank}.safetensors")
            assert found.keys() == expected.keys()
            for name, tensor in expected.items():
                told = f"{kind}: {name}"
                torch.testing.assert_close(
                    found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=told: f"{n}: {m}"
                )
