"""A teacher with its own tokenizer on two gloo processes: each ends as one process does, with the same logs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed.train_across_tokenizers import trained
from tests.processes import on_processes
from tests.tokenizers_of_kinds import tokenizer


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    for role, kind in (("student", "wordpiece"), ("teacher", "bpe")):
        tokenizer(kind).save_pretrained(tmp_path / role)
    on_processes(Path(__file__).with_name("train_across_tokenizers.py"), tmp_path)
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
