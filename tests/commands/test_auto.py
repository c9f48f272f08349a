"""`auto`: what its flags stand for, and what it refuses before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_distill.commands import auto
from hf_distill.search import Budget, Settings

DATA = ["--task_name", "rte", "--teacher", "teacher", "--output_dir", "out"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What a search would be asked for."""
    found: list[tuple[Any, ...]] = []

    def find(*asked: Any) -> Any:
        found.append(asked)
        return SimpleNamespace(table="THE TABLE", output_dir=Path("out"), fits=len(found) == 1)

    monkeypatch.setattr(auto, "find", find)
    return found


def test_flags_stand_for_recipes_budget_and_settings(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--latency_share", "0.25", "--size_mb", "80", "--time_budget", "30min", "--keep", "3"]
    words += ["--learning_rate_scales", "1", "2.5", "--runtimes", "eager", "--num_train_epochs", "2"]
    assert auto.main([*DATA, *words]) == 0
    recipes, budget, output_dir, settings = asked[0]
    assert list(recipes) == ["soft_targets", "distilbert", "minilm_v2", "pkd"]
    for recipe in recipes.values():
        assert (recipe.task, recipe.teacher.model) == ("rte", "teacher")
        assert all(stage.arguments["num_train_epochs"] == 2 for stage in recipe.stages)
    assert budget == Budget(latency_share=0.25, size_mb=80.0)
    assert output_dir == "out"
    assert settings == Settings(1800.0, "cpu", 3, (1.0, 2.5), ("eager",))
    assert "THE TABLE" in capsys.readouterr().out
    assert auto.main([*DATA, "--params", "7"]) == 1  # a student that exceeds the budget when measured again


def test_a_recipe_that_trains_its_teacher_takes_the_one_given(asked: list[tuple[Any, ...]]) -> None:
    assert auto.main([*DATA, "--params", "7", "--recipes", "glue/sst2", "comparisons/pkd"]) == 0
    assert {name: recipe.teacher.model for name, recipe in asked[0][0].items()} == {
        "sst2": "teacher",
        "pkd": "teacher",
    }
    assert asked[0][0]["sst2"].teacher.fine_tune is None


def test_files_of_ones_own(asked: list[tuple[Any, ...]]) -> None:
    words = ["--train_file", "own.csv", "--text_columns", "review", "--class_names", "bad,good"]
    assert auto.main([*words, *DATA[2:], "--params", "7"]) == 0
    data = asked[0][0]["soft_targets"].data
    assert (data.files.train, data.text_columns, data.label_names) == ("own.csv", ["review"], ["bad", "good"])


def test_a_data_set_of_the_hub(asked: list[tuple[Any, ...]]) -> None:
    words = ["--dataset_name", "me/moods", "--text_columns", "body", "--label_column", "mood"]
    assert auto.main([*words, *DATA[2:], "--params", "7"]) == 0
    data = asked[0][0]["soft_targets"].data
    assert (data.hub.id, data.text_columns, data.label_column) == ("me/moods", ["body"], "mood")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task_name", "rte", "--params", "7", "--output_dir", "out"], "auto needs --teacher."),
        ([*DATA[:4], "--params", "7"], "auto needs --output_dir."),
        (DATA, "auto needs a budget: --latency_ms, --latency_share, --size_mb, --params."),
        ([*DATA[2:], "--params", "7"], "auto needs --task_name, or --train_file"),
        ([*DATA, "--latency_ms", "0"], "'0' is no number above 0"),
        ([*DATA, "--latency_ms", "nan"], "'nan' is no number above 0"),
        ([*DATA, "--params", "7", "--time_budget", "soon"], "'soon' is no time above 0 such as 90s, 30min or 2h"),
        ([*DATA, "--params", "7", "--runtimes", "steam"], "invalid choice: 'steam'"),
        ([*DATA, "--params", "7", "--recipes", "a/x.yaml", "b/x.yaml"], "have one name; rename a file"),
        ([*DATA, "--params", "7", "--push_to_hub"], "auto does not take --push_to_hub"),
        ([*DATA, "--params", "7", "--resume_from_checkpoint", "x"], "with the same output_dir it goes on by itself"),
        ([*DATA, "--param", "7"], "unknown argument '--param', did you mean --params"),
        ([*DATA, "--params", "7", "--device", "abacus"], "no device 'abacus' here"),
    ],
)
def test_bad_flags_are_one_line(
    asked: list[tuple[Any, ...]], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert auto.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert asked == []


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("30 min", 1800), ("2m", 120)])
def test_times(text: str, seconds: float) -> None:
    assert auto.seconds_in(text) == seconds
