"""A teacher's cache on two gloo processes: each writes its share, both read, and the student is that of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.runs import run
from hf_distill.teachers import Cached
from tests import tiny_runs
from tests.distributed.train_dispatched import trainer
from tests.processes import on_processes

GO = "import json, sys; from hf_distill import run; run(json.loads(sys.argv[1]), sys.argv[2], evaluate=False)"


def recipe(home: Path, batch_size: int, cache: str) -> dict[str, Any]:
    arguments = {
        "max_steps": 5, "per_device_train_batch_size": batch_size, "per_device_eval_batch_size": 4, "optim": "sgd",
        "learning_rate": 0.1, "use_cpu": True, "disable_tqdm": True, "save_strategy": "no",
        "train_sampling_strategy": "sequential", "dataloader_num_workers": 1, "eval_strategy": "no",
    }  # fmt: skip
    objectives = [{"soft_targets": {}}, {"labels": {}}, {"hidden_mse": {"layer_map": "final"}}]
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher"), "cache": {"folder": str(home / cache), "codec": "float32"}},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": objectives, "arguments": arguments}],
    }


DISPATCHED = Path(__file__).with_name("train_dispatched.py")
BROKEN = Path(__file__).with_name("write_a_broken_share.py")


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "words"), [("full", "No space left on device"), ("nan", "gives NaN or infinite")])
def test_what_one_rank_cannot_write_ends_both_and_keeps_what_the_other_wrote(
    kind: str, words: str, tmp_path: Path
) -> None:
    on_processes(BROKEN, tmp_path, kind)
    told = [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)]
    assert told[0] == told[1]
    assert words in told[0]
    assert (tmp_path / "rows.txt").read_text() == "8"


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["float16", "bfloat16", "int8"])
def test_one_rank_reads_for_both(codec: str, tmp_path: Path) -> None:
    """gloo, as NCCL, sends no whole numbers of two bytes."""
    on_processes(DISPATCHED, tmp_path, codec)
    alone = trainer(tmp_path / "alone", codec, 4)
    alone.train()
    theirs = load_file(tmp_path / "student" / "model.safetensors")
    for name, tensor in alone.model.state_dict().items():
        torch.testing.assert_close(theirs[name], tensor, rtol=0, atol=2e-6)


@pytest.mark.slow
def test_two_ranks_write_and_read_one_cache(tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher", dropout=0.0)
    tiny_runs.write_sst2(tmp_path / "sst2", train=24)
    (tmp_path / "go.py").write_text(GO)
    on_processes(tmp_path / "go.py", json.dumps(recipe(tmp_path, 4, "two")), tmp_path / "out")
    run(recipe(tmp_path, 8, "one"), tmp_path / "alone", evaluate=False)
    two, one = Cached(tmp_path / "two"), Cached(tmp_path / "one")
    assert two.facts.digest == one.facts.digest
    assert [shard.rows for shard in two.facts.shards] == [12, 12]
    assert sorted(two.reader._keys.tolist()) == sorted(one.reader._keys.tolist())
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("out", "alone"))
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=0, atol=2e-6)
