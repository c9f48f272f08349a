"""Partners, and gradients through gradients of the input, on two ranks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_model

from tests import tiny
from tests.objectives.test_further_passes import EXACT, trained, trainer_for


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    script = Path(__file__).parent / "train_with_passes.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*command, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in EXACT:
        single = trained(name)
        for rank in (0, 1):
            other = trainer_for(name).model
            load_model(other, tmp_path / f"{name}-{rank}.safetensors")
            assert tiny.distance(single.model, other) < 2e-6, (name, rank)
