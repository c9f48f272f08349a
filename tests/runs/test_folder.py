"""The folder of a run that was broken off."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_distill.errors import DistillationError
from hf_distill.recipe import Recipe
from hf_distill.runs import folder
from hf_distill.runs.folder import RunFolder, read_json
from hf_distill.runs.results import RunResult

RECIPE = Recipe.from_dict(
    {
        "schema": 1,
        "task": "sst2",
        "student": {"model": "x"},
        "stages": [{"name": "a", "objectives": [{"labels": {}}]}],
    }
)


def test_a_run_that_was_broken_off_before_it_said_whose_the_folder_is_begins_anew(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    folder.stages.mkdir(parents=True)
    (folder.stages / ".lock").write_text("")
    (folder.stages / ".run.json.12.part").write_text("{")
    folder.check(RECIPE, {})
    (folder.stages / "01-a").mkdir()
    with pytest.raises(DistillationError, match="already holds stages"):
        folder.check(RECIPE, {})


def test_results_of_another_version_are_told(tmp_path: Path) -> None:
    found = RunResult(tmp_path, "validation", "accuracy", (), {"eval_accuracy": 1.0}, ("a note",))
    assert RunResult.from_dict(tmp_path, found.to_dict()) == found
    for other in ({"a": 1}, {**found.to_dict(), "runs": [{"name": "student", "interval": None, "latency": None}]}):
        with pytest.raises(DistillationError, match=r"stages/results\.json.*remove it"):
            RunResult.from_dict(tmp_path, other)


def test_a_run_of_an_earlier_version_that_lacked_a_key_is_gone_on_with(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out")
    with folder.claimed(RECIPE, {}):
        pass
    kept = folder.stages / "run.json"
    written = json.loads(kept.read_text())
    del written["recipe"]["max_length"], written["recipe"]["stages"][0]["targets"]
    kept.write_text(json.dumps(written))
    folder.check(RECIPE, {})
    with pytest.raises(DistillationError, match=r"another recipe: max_length"):
        folder.check(RECIPE.model_copy(update={"max_length": 16}), {})


def test_files_that_are_too_large_or_too_deep_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(DistillationError, match=r"x\.json cannot be read: .*recursion"):
        read_json(path)
    monkeypatch.setattr(folder, "MOST_BYTES", 10)
    with pytest.raises(DistillationError, match=r"x\.json has more than 10 bytes"):
        read_json(path)
