"""The commit at which what is done in one folder reads a data set of the Hub."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore
from typing import Any

import pytest
from filelock import FileLock

from hf_distill.commands.comparing import Trial, at_one_commit
from hf_distill.errors import DistillationError
from hf_distill.recipe import Recipe
from hf_distill.runs import commits, exporting
from hf_distill.runs.commits import at_kept_commit
from hf_distill.runs.folder import RunFolder
from tests import tiny
from tests.hub.conftest import tiny_tokenizer


def recipe(**hub: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "schema": 1,
            "data": {"hub": {"id": "me/moods", **hub}, "text_columns": ["text"], "label_column": "mood"},
            "student": {"model": "student"},
            "stages": [{"name": "train", "objectives": [{"labels": {}}]}],
        }
    )


def commit_of(found: Recipe) -> str | None:
    assert found.data is not None
    assert found.data.hub is not None
    return found.data.hub.revision


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the Hub was asked for; every answer is another commit."""
    found: list[Any] = []

    def load_splits(hub_id: str, splits: Any, **where: Any) -> tuple[dict[str, Any], str]:
        found.append((hub_id, where["config"], where["revision"]))
        return {}, f"{len(found):040x}"

    monkeypatch.setattr(commits, "load_splits", load_splits)
    return found


def test_a_name_has_the_commit_of_the_first_look(asked: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "new"
    names: list[dict[str, str]] = [{}, {"revision": "v1"}, {"config": "all"}, {}]
    found = [commit_of(at_kept_commit(recipe(**name), folder)) for name in names]
    assert found == [f"{number:040x}" for number in (1, 2, 3, 1)]
    assert asked == [("me/moods", None, None), ("me/moods", None, "v1"), ("me/moods", "all", None)]
    assert commit_of(at_kept_commit(recipe(), tmp_path / "other")) == f"{4:040x}"


def test_two_that_look_at_once_get_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second one begins while the first has asked the Hub and has no answer yet."""
    asked: list[int] = []
    began = Semaphore(0)

    class Seen(FileLock):
        def acquire(self, *args: Any, **kwargs: Any) -> Any:
            began.release()
            return super().acquire(*args, **kwargs)

    def load_splits(*_: Any, **__: Any) -> tuple[dict[str, Any], str]:
        asked.append(1)
        for _ in range(2):
            assert began.acquire(timeout=10)
        return {}, f"{len(asked):040x}"

    monkeypatch.setattr(commits, "FileLock", Seen)
    monkeypatch.setattr(commits, "load_splits", load_splits)
    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(lambda: commit_of(at_kept_commit(recipe(), tmp_path))) for _ in range(2)]
    assert [look.result() for look in looks] == [f"{1:040x}"] * 2
    assert len(asked) == 1


def test_files_and_tasks_have_none(asked: list[Any], tmp_path: Path) -> None:
    given = Recipe.load("comparisons/labels")
    assert at_kept_commit(given, tmp_path) is given
    assert asked == []


def test_a_commit_that_is_not_known_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(commits, "load_splits", lambda *names, **where: ({}, None))
    given = recipe(revision="v1")
    assert at_kept_commit(given, tmp_path) is given


def test_reports_of_a_comparison_find_its_runs_and_read_no_hub(asked: list[Any], tmp_path: Path) -> None:
    plan = [Trial("labels", 0, recipe().to_dict()), Trial("named", 0, recipe(revision="f" * 40).to_dict())]
    assert at_one_commit(plan, tmp_path, look_up=False) == plan
    ran = at_one_commit(plan, tmp_path, look_up=True)
    assert [Recipe.from_dict(each.recipe).data.hub.revision for each in ran] == [f"{1:040x}", "f" * 40]
    assert at_one_commit(plan, tmp_path, look_up=False) == ran
    assert len(asked) == 1


def test_forms_of_a_student_are_tried_on_rows_of_the_commit_of_its_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path)
    with folder.claimed(recipe(), {}, {"data.hub.revision": "c" * 40}):
        pass
    read: list[str | None] = []

    def load_workload(found: Recipe, **settings: Any) -> None:
        read.append(commit_of(found))
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "load_workload", load_workload)
    with pytest.raises(KeyboardInterrupt):
        exporting._seen(folder, tiny.model("single_label"), tiny_tokenizer())
    assert read == ["c" * 40]


@pytest.mark.parametrize("commit", ["main", "../..", 5, ""])
def test_a_damaged_file_is_told(asked: list[Any], commit: Any, tmp_path: Path) -> None:
    at_kept_commit(recipe(), tmp_path)
    commits.write_json(tmp_path / "commits.json", {"x": commit})
    with pytest.raises(DistillationError, match=r"commits\.json: .* of x is no commit; remove the file"):
        at_kept_commit(recipe(), tmp_path)
