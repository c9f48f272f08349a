"""Two processes publish once, also a student in shards: the whole of it, and its card."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load

from tests.distributed.train_and_publish import KINDS
from tests.distributed.train_in_shards import trained, write_models
from tests.hub.server import WRITER, Hub
from tests.hub.test_publish import environment
from tests.processes import on_processes

pytestmark = pytest.mark.slow


def test_two_processes_publish_once(tmp_path: Path) -> None:
    write_models(tmp_path)
    with Hub() as hub:
        given = {**environment(hub, tmp_path / "home"), "HF_TOKEN": WRITER, "OMP_NUM_THREADS": "1"}
        on_processes(Path(__file__).with_name("train_and_publish.py"), tmp_path, environment=given)
        asked = [path for _, path in hub.log].count("/api/repos/create")
        assert asked == 2 * len(KINDS), "before the student is saved and at the upload, by one process"
    expected = trained(tmp_path, "student").model.state_dict()
    for kind in KINDS:
        repository = hub.repositories[f"me/{kind}"]
        assert repository.commits.count("End of training") == 1
        found = load(repository.files["model.safetensors"])
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-6, msg=f"{kind}: {name}")
        assert {"README.md", "distillation.json", "config.json"} <= set(repository.files)
