"""What a search is asked for, and which folder may be gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import DatasetDict

from hf_distill.data.text import TextData
from hf_distill.errors import DistillationError, RecipeError
from hf_distill.hub.record import environment
from hf_distill.recipe import Recipe
from hf_distill.runs import commits
from hf_distill.runs.workloads.text_classification import TextClassification
from hf_distill.search import Budget, Settings, asked, find, finding
from hf_distill.search.asked import check_folder, common

RECIPES = {name: Recipe.load(f"comparisons/{name}") for name in ("soft_targets", "minilm_v2")}
BUDGET = Budget(latency_ms=5.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"time_budget": 0.0}, "time_budget is 0.0"),
        ({"time_budget": float("inf")}, "time_budget is inf"),
        ({"keep": 0}, "keep is 0"),
        ({"learning_rate_scales": ()}, "learning_rate_scales are"),
        ({"learning_rate_scales": (1.0, 1.0)}, "each once"),
        ({"learning_rate_scales": (-1.0,)}, "above 0"),
        ({"device": "nowhere"}, "no device 'nowhere' here"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DistillationError, match=message):
        Settings(**settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"teacher.model": "another"},
            "'soft_targets' and 'other' must be of the same teacher and data; teacher.model",
        ),
        ({"task": "rte"}, 'task: "rte", was "sst2"'),
        ({"seed": 7}, "seed: 7, was 42"),
    ],
)
def test_recipes_of_other_data_or_teachers_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        common({"soft_targets": RECIPES["soft_targets"], "other": RECIPES["minilm_v2"].override(changes)})


def test_a_teacher_that_is_not_trained_is_refused() -> None:
    with pytest.raises(RecipeError, match="one model that is trained already"):
        common({"sst2": Recipe.load("glue/sst2")})
    with pytest.raises(RecipeError, match="no recipe"):
        common({})


def check(folder: Path, budget: Budget = BUDGET, sources: str = "a", **settings: Any) -> None:
    check_folder(folder, RECIPES, budget, Settings(**settings), {"train": sources})


def test_a_folder_is_gone_on_with_by_the_same_search(tmp_path: Path) -> None:
    check(tmp_path)
    check(tmp_path, budget=Budget(latency_ms=9.0), keep=3)  # nothing was tried: the costs are as before
    (tmp_path / "trials").mkdir()
    check(tmp_path, budget=Budget(latency_ms=9.0), keep=3)
    with pytest.raises(DistillationError, match=r"another search: tried.time_budget: 7.0, was 3600.0"):
        check(tmp_path, budget=Budget(latency_ms=9.0), keep=3, time_budget=7.0)
    with pytest.raises(DistillationError, match=r"another search: tried.budget.latency_ms: 5.0, was 9.0"):
        check(tmp_path, keep=3)


def test_other_data_or_another_device_are_another_search(tmp_path: Path) -> None:
    check(tmp_path)
    with pytest.raises(DistillationError, match=r'sources.train: "b", was "a"'):
        check(tmp_path, sources="b")
    with pytest.raises(DistillationError, match=r'device: "meta", was "cpu"'):
        check(tmp_path, device="meta")


def test_times_of_another_machine_are_another_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = environment()
    check(tmp_path)
    hardware = here.hardware.model_copy(update={"threads": here.hardware.threads + 7})
    monkeypatch.setattr(asked, "environment", lambda: here._replace(hardware=hardware))
    with pytest.raises(DistillationError, match=r"another search: machine.threads: \d+, was \d+"):
        check(tmp_path)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("finished", encoding="utf-8")
    with pytest.raises(DistillationError, match=r"already holds thesis.txt, and not from a search"):
        check(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_kinds_of_data_are_refused(tmp_path: Path) -> None:
    data = {"files": {"train": "train.jsonl"}, "token_classification": {"tags_column": "tags"}}
    recipe = RECIPES["soft_targets"].override({"task": None, "data": data})
    with pytest.raises(RecipeError, match="labelled texts alone"):
        find({"soft_targets": recipe}, BUDGET, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_every_run_of_a_search_reads_the_commit_of_its_first_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also where the branch has moved before the next call."""
    data = {"hub": {"id": "me/moods"}, "text_columns": ["text"], "label_column": "mood"}
    recipes = {name: recipe.override({"task": None, "data": data}) for name, recipe in RECIPES.items()}
    moving = iter(("a" * 40, "b" * 40))
    monkeypatch.setattr(commits, "load_splits", lambda *names, **where: ({}, next(moving)))
    rows = TextClassification("me/moods", TextData(DatasetDict(), ("text",), (), "single_label", {}), ("accuracy",))
    read: list[Recipe] = []

    def load_workload(shared: Recipe) -> TextClassification:
        read.append(shared)
        return rows

    def search(tried: dict[str, Recipe], *rest: Any) -> None:
        read.extend(tried.values())
        raise KeyboardInterrupt

    monkeypatch.setattr(finding, "load_workload", load_workload)
    monkeypatch.setattr(finding, "_Search", search)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            find(recipes, BUDGET, tmp_path)
    assert [each.data.hub.revision for each in read] == ["a" * 40] * 6
