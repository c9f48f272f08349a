"""Students of several teachers, and students on a grid, end on two processes as on one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from hf_distill.students.quantized import beneath
from tests import tiny
from tests.distributed import train_ensembles, train_grids
from tests.processes import on_processes

pytestmark = pytest.mark.slow


def on_two_ranks(script: str, folder: Path) -> None:
    on_processes(Path(__file__).with_name(script), folder)


def check(folder: Path, kind: str, expected: dict[str, Tensor], start: dict[str, Tensor]) -> None:
    assert max(float((expected[name] - start[name]).abs().max()) for name in expected) > 1e-4, "nothing was learned"
    for rank in (0, 1):
        found = load_file(folder / f"{kind}-{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            told = f"{kind}: {name}"
            torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-5, msg=lambda m, n=told: f"{n}: {m}")


def test_several_teachers_and_what_they_vote_on(tmp_path: Path) -> None:
    on_two_ranks("train_ensembles.py", tmp_path)
    for kind in train_ensembles.HOW:
        whole = train_ensembles.trained(kind, gather=False, per_device_train_batch_size=8)
        start = tiny.model("single_label", seed=1).state_dict()
        check(tmp_path, kind, dict(whole.model.state_dict()), dict(start))


def test_students_on_a_grid(tmp_path: Path) -> None:
    """The floats beneath a uniform grid, by both ways for a gradient, and points that are learned."""
    on_two_ranks("train_grids.py", tmp_path)
    for kind in train_grids.KINDS:
        start = {name: each.detach().clone() for name, each in beneath(train_grids.on_a_grid(kind)).items()}
        check(tmp_path, kind, train_grids.state(train_grids.trained(kind, per_device_train_batch_size=8)), start)
