"""Weights that vary, and a discriminator, on two gloo processes: each ends as one process does, with the same logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.train_with_weights import CASES, trained
from tests.processes import on_processes


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    on_processes(Path(__file__).with_name("train_with_weights.py"), tmp_path)
    for case in CASES:
        alone = trained(case)
        expected = dict(alone.distillation.named_parameters())
        rows = [row for row in alone.state.log_history if "loss" in row]
        for rank in (0, 1):
            found = load_file(tmp_path / f"{case}-{rank}.safetensors")
            assert found.keys() == expected.keys()
            for name, parameter in expected.items():
                torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=1e-6, msg=f"{case}: {name}")
        logged = json.loads((tmp_path / f"{case}-0.json").read_text())
        for ours, theirs in zip(rows, logged, strict=True):
            keys = {key for key in ours if "/" in key or key == "loss"}
            assert keys == {key for key in theirs if "/" in key or key == "loss"}
            assert {key: theirs[key] for key in keys} == pytest.approx({key: ours[key] for key in keys}, abs=1e-5)
