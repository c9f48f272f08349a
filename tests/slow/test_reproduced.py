"""The models and stages of the quick start on fewer rows, and the record run again by the script: bitwise the same
student. Needs the extra `quickstart`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_distill.hub.record import Record

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FEWER = ["--max_train_samples", "320", "--max_eval_samples", "100", "--max_predict_samples", "200"]


def script(home: Path, *flags: str) -> str:
    """What `scripts/distill_glue.py` prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / "distill_glue.py"), *flags]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=home, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_record_of_the_quick_start_gives_the_same_student(tmp_path: Path) -> None:
    script(tmp_path, "--recipe", "quickstart", "--output_dir", "first", *FEWER)
    shown = script(tmp_path, "--reproduce", "first", "--output_dir", "again")
    assert "Reproduced: the weights are bitwise those of the record." in shown
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    first, again = Record.read(tmp_path / "first"), Record.read(tmp_path / "again")
    assert first.metrics == again.metrics
    assert first.control_metrics == again.control_metrics
