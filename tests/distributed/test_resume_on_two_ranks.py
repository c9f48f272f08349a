"""A run of two processes that is gone on with within an epoch ends as the uninterrupted one, and as one process: rows
that fill its last round still weigh nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.train_and_resume import trained
from tests.processes import on_processes


@pytest.mark.slow
def test_a_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    on_processes(Path(__file__).with_name("train_and_resume.py"), tmp_path)
    told = dict(line.split() for line in (tmp_path / "told").read_text().splitlines())
    assert told == dict.fromkeys(["1", "2", "4", "5"], "0.0")
    found = load_file(tmp_path / "student" / "model.safetensors")
    alone = trained(tmp_path / "alone", per_device_train_batch_size=4)
    for name, parameter in alone.model.state_dict().items():
        torch.testing.assert_close(found[name], parameter, rtol=0, atol=1e-6, msg=name)
