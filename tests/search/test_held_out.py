"""What trials learn from and are judged on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_distill.errors import DataError
from hf_distill.recipe import Recipe
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.text_classification import TextClassification
from hf_distill.search.held_out import hold_out, on_held_out
from tests import tiny_runs


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def workload_of(recipe: Recipe) -> TextClassification:
    found = load_workload(recipe)
    assert isinstance(found, TextClassification)
    return found


def key(rows: list[dict[str, Any]], text: str, label: str) -> list[tuple[str, Any]]:
    return sorted((row[text], row[label]) for row in rows)


def test_a_tenth_of_the_training_rows_of_each_class_and_none_of_the_validation(tmp_path: Path) -> None:
    tiny_runs.write_sst2(tmp_path / "sst2", train=60, validation=10)
    recipe = Recipe.load("comparisons/soft_targets").override({"dataset_dir": str(tmp_path / "sst2")})
    held_out = hold_out(workload_of(recipe), tmp_path / "data")
    train, judged = rows_of(tmp_path / "data/train.jsonl"), rows_of(tmp_path / "data/validation.jsonl")
    assert (len(train), len(judged), held_out.rows) == (54, 6, 54)
    assert sorted(row["label"] for row in judged) == [0, 0, 0, 1, 1, 1]
    assert key([*train, *judged], "sentence", "label") == key(tiny_runs.sst2_rows(60), "sentence", "label")
    before = (tmp_path / "data/train.jsonl").stat().st_mtime_ns
    hold_out(workload_of(recipe), tmp_path / "data")
    assert (tmp_path / "data/train.jsonl").stat().st_mtime_ns == before


def test_a_trial_reads_these_rows_under_the_task(tmp_path: Path) -> None:
    tiny_runs.write_mnli(tmp_path / "mnli")
    rows = tiny_runs.nli_rows(30)
    tiny_runs.write_jsonl(tmp_path / "mnli/train.jsonl", rows)
    changes = {"task": "mnli", "dataset_dir": str(tmp_path / "mnli"), "control": True}
    recipe = Recipe.load("comparisons/soft_targets").override(changes)
    trial = on_held_out(recipe, hold_out(workload_of(recipe), tmp_path / "data"), 12)
    assert not trial.control
    found = workload_of(trial)
    assert found.metrics == workload_of(recipe).metrics
    assert found.sizes["train"] == 12
    assert found.sizes["validation_matched"] == found.sizes["validation_mismatched"] == 3


@pytest.mark.parametrize(("classes", "each"), [(40, 5), (25, 4)])
def test_classes_of_few_rows_are_cut_as_one(tmp_path: Path, classes: int, each: int) -> None:
    """A tenth of four or five rows rounds to none."""
    names = [f"class {i}" for i in range(classes)]
    rows = [{"text": f"{name}, {i}", "label": name} for name in names for i in range(each)]
    path = str(tiny_runs.write_jsonl(tmp_path / "rows.jsonl", rows))
    files = {"train": path, "validation": path}
    data = {"files": files, "text_columns": ["text"], "label_column": "label", "label_names": names}
    recipe = Recipe.load("comparisons/soft_targets").override({"task": None, "data": data})
    held_out = hold_out(workload_of(recipe), tmp_path / "data")
    train, judged = rows_of(tmp_path / "data/train.jsonl"), rows_of(tmp_path / "data/validation.jsonl")
    assert (held_out.rows, len(judged)) == (len(rows) * 9 // 10, len(rows) // 10)
    assert key([*train, *judged], "text", "label") == key(rows, "text", "label")


@pytest.mark.parametrize("scored", [False, True])
def test_own_files_keep_their_labels(tmp_path: Path, scored: bool) -> None:
    rows = [
        {"review": f"{tiny_runs.sentence(i)[0]} {i}", "stars": i % 7 / 2 if scored else "bg"[i % 2]} for i in range(40)
    ]
    tiny_runs.write_jsonl(tmp_path / "own.jsonl", rows)
    data = {
        "files": {"train": str(tmp_path / "own.jsonl")},
        "text_columns": ["review"],
        "label_column": "stars",
        "split": {"validation": 0.25},
        **({} if scored else {"label_names": ["g", "b"]}),
    }
    recipe = Recipe.load("comparisons/soft_targets").override({"task": None, "data": data})
    workload = workload_of(recipe)
    trial = workload_of(on_held_out(recipe, hold_out(workload, tmp_path / "data"), 20))
    assert trial.data.label_names == (() if scored else ("g", "b"))
    assert trial.data.kind == ("regression" if scored else "single_label")
    assert trial.sizes == {"train": 20, "validation": 3 if scored else 4}  # of 30, or of 15 of each class
    reported = set(workload.splits["validation"]["review"])
    held = {
        row["review"]: row["label"]
        for name in ("train", "validation")
        for row in rows_of(tmp_path / f"data/{name}.jsonl")
    }
    assert not reported & set(held)
    assert held == {row["review"]: row["stars"] for row in rows if row["review"] not in reported}


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    tiny_runs.write_sst2(tmp_path / "sst2", train=19)
    recipe = Recipe.load("comparisons/soft_targets").override({"dataset_dir": str(tmp_path / "sst2")})
    with pytest.raises(DataError, match="19 training rows are too few"):
        hold_out(workload_of(recipe), tmp_path / "data")
    assert not (tmp_path / "data").exists()
