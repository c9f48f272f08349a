"""The comparison of recipes in real processes: two at once in one folder, and token classification."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import tiny_runs, tiny_tasks

ROOT = Path(__file__).parents[2]
FAST = ["--use_cpu", "--student_layers", "1", "--num_train_epochs", "1", "--per_device_train_batch_size", "8"]
pytestmark = pytest.mark.slow


def compare(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "compare.py"), *words, *FAST]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, check=False)


def test_two_processes_share_the_runs_of_a_folder(tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher")
    tiny_runs.write_sst2(tmp_path / "sst2")
    out = tmp_path / "out"
    words = ["glue", "--recipes", "review/pkt", "review/mean_teacher", "--seeds", "0", "--task_name", "sst2"]
    words += ["--dataset_dir", str(tmp_path / "sst2"), "--teacher_name_or_path", str(tmp_path / "teacher")]
    words += ["--output_dir", str(out)]
    with ThreadPoolExecutor() as both:
        for done in both.map(lambda _: compare(*words), range(2)):
            assert done.returncode == 0, done.stdout
    done = compare(*words, "--report")
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in (out / "runs.jsonl").read_text().splitlines()]
    assert sorted(line["name"] for line in lines) == ["labels", "mean_teacher", "pkt", "soft_targets", "teacher"]
    assert all(line["outcome"] == "scored" and line["peak_bytes"] > 1e7 for line in lines)
    assert "| `mean_teacher` | " in done.stdout
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_token_classification(tmp_path: Path) -> None:
    tiny_tasks.save_tagger(tmp_path / "tagger")
    tiny_tasks.write_tagged(tmp_path / "tagged")
    words = ["ner", "--recipes", "review/fitnets_hint", "review/dist", "--seeds", "0"]
    for split in ("train", "validation"):
        words += [f"--{split}_file", str(tmp_path / "tagged" / f"{split}.jsonl")]
    words += ["--class_names", ",".join(tiny_tasks.TAGS), "--teacher_name_or_path", str(tmp_path / "tagger")]
    done = compare(*words, "--label_column_name", "ner_tags", "--output_dir", str(tmp_path / "out"))
    assert done.returncode == 0, done.stdout
    lines = [json.loads(line) for line in (tmp_path / "out" / "runs.jsonl").read_text().splitlines()]
    assert {line["name"] for line in lines} == {"teacher", "labels", "soft_targets", "fitnets_hint", "dist"}
    assert {line["kind"] for line in lines if line["outcome"] == "scored"} == {"entities"}
