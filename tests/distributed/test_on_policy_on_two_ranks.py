"""Texts that students write on two ranks are those that one process writes, and so is what is learned of them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from safetensors.torch import load_model

from tests import tiny
from tests.on_policy.test_training import LAST_WINDOWS, SPLIT, on_ranks
from tests.on_policy.worlds import small
from tests.processes import on_processes


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    """The last window of an epoch is short, and the second rank has a batch less in it; or has all its batches, of
    whose last one rows are repeated."""
    on_processes(Path(__file__).with_name("train_on_policy.py"), tmp_path)
    for (name, task), number in product(SPLIT, LAST_WINDOWS):
        single = on_ranks(task, number, per_device_train_batch_size=4)
        for rank in (0, 1):
            other = small(task)
            load_model(other, tmp_path / f"{name}-{number}-{rank}.safetensors")
            assert tiny.distance(single.model, other) < 2e-6, (name, number, rank)
        logged = json.loads((tmp_path / f"{name}-{number}-0.json").read_text(encoding="utf-8"))
        for ours, theirs in zip(single.state.log_history, logged, strict=True):
            counted = [key for key in ours if key in ("on_policy/texts", "on_policy/tokens", "on_policy/ended_share")]
            assert {key: ours[key] for key in counted} == {key: theirs[key] for key in counted}
