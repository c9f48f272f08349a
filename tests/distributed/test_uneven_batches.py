"""Rows that are repeated to fill the last batches of an epoch weigh nothing: two and four processes end as one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.train_uneven import TASKS, told, trained
from tests.processes import on_processes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("processes", "size"), [(2, 4), (4, 2)])
def test_several_processes_end_as_one(tmp_path: Path, processes: int, size: int) -> None:
    """Of 21 rows in steps of 8, five are left for the last one: 4 and 1, or 2, 2, 1 and none."""
    on_processes(Path(__file__).with_name("train_uneven.py"), tmp_path, size, processes=processes)
    for task in TASKS:
        alone = trained(task, per_device_train_batch_size=8, per_device_eval_batch_size=2)
        expected, figures = dict(alone.distillation.named_parameters()), told(alone)
        for rank in range(processes):
            found = load_file(tmp_path / f"{task}-{rank}.safetensors")
            for name, parameter in expected.items():
                torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=1e-6, msg=f"{task}: {name}")
            ours = json.loads((tmp_path / f"{task}-{rank}.json").read_text())
            assert ours["metrics"] == pytest.approx(figures["metrics"], abs=1e-5, rel=1e-6)
            if rank == 0:
                for mine, theirs in zip(ours["logged"], figures["logged"], strict=True):
                    assert mine == pytest.approx(theirs, abs=1e-5)
