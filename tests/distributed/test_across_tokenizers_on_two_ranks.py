"""A teacher with its own tokenizer on two gloo processes: each ends as one process does, with the same logs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.train_across_tokenizers import trained
from tests.tokenizers_of_kinds import tokenizer

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    for role, kind in (("student", "wordpiece"), ("teacher", "bpe")):
        tokenizer(kind).save_pretrained(tmp_path / role)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("train_across_tokenizers.py")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    alone = trained(tmp_path, per_device_train_batch_size=4)
    expected = dict(alone.distillation.named_parameters())
    for rank in (0, 1):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name, parameter in expected.items():
            torch.testing.assert_close(found[name], parameter.detach(), rtol=0, atol=1e-6, msg=name)
    rows = [row for row in alone.state.log_history if "loss" in row]
    logged = json.loads((tmp_path / "0.json").read_text())
    for ours, theirs in zip(rows, logged, strict=True):
        keys = {key for key in ours if "/" in key or key == "loss"}
        assert "gold/unmatched" in keys
        assert {key: theirs[key] for key in keys} == pytest.approx({key: ours[key] for key in keys}, abs=1e-5)
