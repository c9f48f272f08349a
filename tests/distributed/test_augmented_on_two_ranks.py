"""Augmented rows on two gloo processes: one makes them, both read them, and the student is that of one process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file

from hf_distill.runs import run
from tests import tiny_runs
from tests.processes import on_processes

GO = "import json, sys; from hf_distill import run; run(json.loads(sys.argv[1]), sys.argv[2], evaluate=False)"


def recipe(home: Path, batch_size: int) -> dict[str, Any]:
    arguments = {
        "max_steps": 5, "per_device_train_batch_size": batch_size, "optim": "sgd", "learning_rate": 0.1,
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "train_sampling_strategy": "sequential",
    }  # fmt: skip
    stage = {"name": "distil", "rows": "augmented", "objectives": [{"soft_targets": {}}, {"labels": {}}]}
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "augmentation": {"masked_lm": str(home / "masked"), "samples": 3, "candidates": 4},
        "stages": [{**stage, "arguments": arguments}],
    }


def texts(folder: Path) -> list[str]:
    """The augmented rows in the folder of a run, which has one set of them."""
    (made,) = folder.glob("stages/augmented-*")
    parts = [Dataset.load_from_disk(str(path)) for path in sorted(made.glob("[0-9]*"))]
    return list(concatenate_datasets(parts)["sentence"])


@pytest.mark.slow
def test_two_ranks_read_the_rows_that_one_made(tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher", dropout=0.0)
    tiny_runs.save_masked_lm(tmp_path / "masked")
    tiny_runs.write_sst2(tmp_path / "sst2", train=24)
    (tmp_path / "go.py").write_text(GO)
    on_processes(tmp_path / "go.py", json.dumps(recipe(tmp_path, 4)), tmp_path / "two")
    run(recipe(tmp_path, 8), tmp_path / "one", evaluate=False)
    assert texts(tmp_path / "two") == texts(tmp_path / "one")
    assert len(texts(tmp_path / "one")) > 48
    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
