"""`scripts/distill_glue.py --push_to_hub` against a Hub on the loopback interface."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny_runs

from .server import READER, WRITER, Hub
from .test_publish import MODEL_FILES, environment

ROOT = Path(__file__).parents[2]


def script(hub: Hub, home: Path, token: str, *flags: str) -> subprocess.CompletedProcess[str]:
    given = {**environment(hub, home / "cache"), "HF_TOKEN": token, "OMP_NUM_THREADS": "1"}
    command = [
        sys.executable, str(ROOT / "scripts" / "distill_glue.py"), "--output_dir", str(home / "out"),
        "--task_name", "sst2", "--dataset_dir", str(home / "sst2"),
        "--teacher_name_or_path", str(home / "teacher"), "--student_layers", "1", "--num_train_epochs", "1",
        "--use_cpu", "--push_to_hub", "--hub_model_id", "me/student", *flags,
    ]  # fmt: skip
    return subprocess.run(command, env=given, capture_output=True, text=True, cwd=home)


@pytest.mark.slow
def test_the_script_publishes_the_student_with_card_and_record(tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher")
    tiny_runs.write_sst2(tmp_path / "sst2")
    with Hub() as hub:
        refused = script(hub, tmp_path, READER)
        assert refused.returncode == 2
        assert "the token can only read" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert not (tmp_path / "out").exists(), "nothing is trained or written for a token that cannot publish"
        done = script(hub, tmp_path, WRITER)
        assert done.returncode == 0, done.stderr
        repository = hub.repositories["me/student"]
        assert set(repository.files) - {".gitattributes"} == MODEL_FILES
        assert repository.private
        assert repository.files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
        assert WRITER.encode() not in b"".join(repository.files.values())
        written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert not [path for path in written if WRITER.encode() in path.read_bytes()]
