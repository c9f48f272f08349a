"""Models that train together on two processes, and states that flow into a student there, end as on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.train_peers import KINDS, state, trained
from tests.processes import on_processes


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    on_processes(Path(__file__).with_name("train_peers.py"), tmp_path)
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
