"""Commands on a data set of the Hub whose branch moves: each run stays with the commit that it began with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_distill.hub.record import Record
from tests import tiny_runs
from tests.hub.server import WRITER, Hub
from tests.hub.test_publish import environment

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DATA = ("--dataset_name", "me/moods", "--text_columns", "text", "--label_column", "mood")
FAST = ("--teacher_name_or_path", "teacher", "--student_layers", "1", "--max_steps", "2", "--use_cpu")


def files(first: int) -> dict[str, bytes]:
    """Twenty rows to train on and ten to validate on, from the sentence of this number on."""
    rows = [dict(zip(("text", "mood"), tiny_runs.sentence(i), strict=True)) for i in range(first, first + 30)]
    lines = [json.dumps({**row, "mood": ("negative", "positive")[row["mood"]]}).encode() + b"\n" for row in rows]
    return {"train.jsonl": b"".join(lines[:20]), "validation.jsonl": b"".join(lines[20:])}


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as served:
        served.create("me/moods", False, files(0))
        yield served


def call(hub: Hub, home: Path, name: str, *flags: str) -> None:
    given = {**environment(hub, home / "cache"), "HF_TOKEN": WRITER, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "scripts" / name), *flags]
    done = subprocess.run(command, env=given, capture_output=True, text=True, cwd=home, check=False)
    assert done.returncode == 0, done.stderr


def commit_of(folder: Path) -> str | None:
    return Record.read(folder).data.revision


def test_a_run_is_made_again_at_its_commit(hub: Hub, tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher")
    call(hub, tmp_path, "distill_glue.py", *DATA, *FAST, "--output_dir", "out")
    branch = hub.repositories["me/moods"].branches["main"]
    branch.append(hub.commit("other rows", files(30)))
    call(hub, tmp_path, "distill_glue.py", "--reproduce", "out", "--data_dir", ".", "--output_dir", "again")
    call(hub, tmp_path, "distill_glue.py", *DATA, *FAST, "--output_dir", "new")
    commits = [commit_of(tmp_path / name) for name in ("out", "again", "new")]
    assert commits == [branch[0].oid, branch[0].oid, branch[1].oid]
    students = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again", "new")]
    assert students[0] == students[1] != students[2]


def test_recipes_are_compared_on_the_commit_of_the_first_call(hub: Hub, tmp_path: Path) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher")
    words = ("glue", "--recipes", "comparisons/labels", *DATA, *FAST, "--output_dir", "out", "--seeds", "0")
    call(hub, tmp_path, "compare.py", *words)
    hub.repositories["me/moods"].branches["main"].append(hub.commit("other rows", files(30)))
    call(hub, tmp_path, "compare.py", *words, "1")
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert {row["name"]: row["seeds"] for row in rows} == {"teacher": [0], "labels": [0, 1], "soft_targets": [0, 1]}
    assert len((tmp_path / "out" / "runs.jsonl").read_text().splitlines()) == 5, "nothing ran twice"
    first = hub.repositories["me/moods"].branches["main"][0].oid
    assert list(json.loads((tmp_path / "out" / "commits.json").read_text()).values()) == [first]
