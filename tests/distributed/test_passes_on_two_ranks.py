"""Partners, gradients through gradients of the input, and copies with few labels, on two ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_model

from tests import tiny
from tests.objectives.test_further_passes import EXACT, alike, trained, trainer_for
from tests.processes import on_processes


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    on_processes(Path(__file__).with_name("train_with_passes.py"), tmp_path)
    for name in (*EXACT, "ddgsd"):
        single = alike() if name == "ddgsd" else trained(name)
        for rank in (0, 1):
            other = trainer_for(name).model
            load_model(other, tmp_path / f"{name}-{rank}.safetensors")
            assert tiny.distance(single.model, other) < 2e-6, (name, rank)
