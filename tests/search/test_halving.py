"""Successive halving with made-up values, against the rule worked out by itself."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hf_distill.errors import DataError, DistillationError, HubError, NonFiniteLoss, UnreadableModel
from hf_distill.recipe import Recipe
from hf_distill.search import trials as module
from hf_distill.search.forms import PLAIN
from hf_distill.search.shapes import Shape, Width
from hf_distill.search.survey import Candidate
from hf_distill.search.trials import Judged, Runner, Trial, first_rows_of, halve, told_of_untried, trials_of, tried
from tests.search.test_budget import cost

WHOLE = Shape(2, Width(32, 4, 48, whole=True), 10, 20)
CANDIDATE = Candidate(WHOLE, PLAIN, cost())
RECIPE = Recipe.load("comparisons/soft_targets")


def trials(number: int) -> list[Trial]:
    return [Trial(CANDIDATE, f"r{i}", 1.0, RECIPE) for i in range(number)]


class MadeUp:
    """Values drawn for each trial and rung; a run takes a second for every ten rows. `r3` cannot be taken."""

    def __init__(self, seed: int = 0, refused: str = "") -> None:
        self.seed, self.refused = seed, refused
        self.asked: list[tuple[str, int]] = []

    def __call__(self, trial: Trial, rows: int) -> Judged:
        self.asked.append((trial.recipe_name, rows))
        if trial.recipe_name == self.refused:
            return Judged(rows, None, 1.0, "", "the widths differ")
        return Judged(rows, value_of(trial.recipe_name, rows, self.seed), rows / 10, "")


def value_of(name: str, rows: int, seed: int) -> float:
    return random.Random(f"{name} {rows} {seed}").random()


def by_the_rule(number: int, first: int, seed: int) -> list[tuple[str, int]]:
    """Asynchronous successive halving, one trial after the other: on from a rung where the value is among the best
    third of those that came there, the trial's own with them, or the best of fewer than three."""
    rungs: list[list[float]] = [[], [], []]
    runs = []
    for i in range(number):
        for rung in range(3):
            runs.append((f"r{i}", first * 3**rung))
            value = value_of(f"r{i}", first * 3**rung, seed)
            rungs[rung].append(value)
            best = sorted(rungs[rung], reverse=True)
            if rung == 2 or value < best[max(0, len(best) // 3 - 1)]:
                break
    return runs


@pytest.mark.parametrize("seed", range(4))
def test_trials_go_on_as_the_rule_says(seed: int) -> None:
    judge = MadeUp(seed)
    courses = halve(trials(9), 20, 1e9, judge)
    assert judge.asked == by_the_rule(9, 20, seed)
    assert {course.outcome for course in courses} <= {"finished", "pruned"}
    assert courses[0].outcome == "finished"
    again = MadeUp(seed)
    assert halve(trials(9), 20, 1e9, again) == courses
    assert again.asked == judge.asked


def test_a_recipe_that_does_not_apply_is_told_and_counts_for_nothing() -> None:
    courses = halve(trials(3), 20, 1e9, MadeUp(refused="r0"))
    assert courses[0].outcome == "refused"
    assert courses[0].runs[0].message == "the widths differ"
    assert courses[0].standing == (0, -float("inf"))
    assert courses[1].outcome == "finished"
    assert max(courses, key=lambda course: course.standing) in courses[1:]


@pytest.mark.parametrize(("seconds", "spent"), [(0.0, 2.0), (7.9, 6.0), (8.0, 8.0), (27.9, 26.0)])
def test_no_run_begins_that_would_end_too_late(seconds: float, spent: float) -> None:
    """The first trial takes 2, 6 and 18 seconds for its rungs; where that is too long others begin, at 2."""
    judge = MadeUp()
    courses = halve(trials(4), 20, seconds, judge)
    assert sum(rows / 10 for _, rows in judge.asked) == pytest.approx(spent)
    assert courses[-1].outcome == "out of time"
    assert courses[-1].to_dict()["runs"] == []


def test_no_run_begins_that_would_end_too_late_by_the_time_of_a_row_in_the_pilot() -> None:
    """A refusal tells nothing of how long a run takes, and spends a second of the time."""
    late, early = MadeUp(refused="r0"), MadeUp(refused="r0")
    courses = halve(trials(2), 20, 2.9, late, seconds_a_row=0.1)
    assert late.asked == [("r0", 20)]
    assert [course.outcome for course in courses] == ["refused", "out of time"]
    halve(trials(2), 20, 3.0, early, seconds_a_row=0.1)
    assert early.asked == [("r0", 20), ("r1", 20)]


def test_the_pilot_is_the_first_trial_that_is_not_refused() -> None:
    """512 rows take 51.2 seconds, and the refusal before them one: of the 442 that are left each of three rungs has
    147, which affords two trials 736 rows each."""
    judge = MadeUp(refused="r0")
    courses = tried(trials(3), 100_000, 494.2, judge)
    assert judge.asked[:3] == [("r0", 512), ("r1", 512), ("r1", 736)]
    assert ("r2", 736) in judge.asked
    assert [course.trial.recipe_name for course in courses] == ["r0", "r1", "r2"]
    refused = courses[0]
    assert (refused.outcome, refused.runs) == ("refused", [Judged(512, None, 1.0, "", "the widths differ")])
    again = MadeUp(refused="r0")
    assert tried(trials(3), 100_000, 494.2, again) == courses
    assert again.asked == judge.asked


def test_recipes_that_are_refused_one_and_all_are_told() -> None:
    courses = tried(trials(2), 90, 10.0, lambda trial, rows: Judged(rows, None, 1.0, "", trial.recipe_name))
    assert [(course.outcome, course.runs[0].rows, course.runs[0].message) for course in courses] == [
        ("refused", 90, "r0"),
        ("refused", 90, "r1"),
    ]


def test_a_pilot_that_takes_all_the_time_leaves_one_run() -> None:
    judge = MadeUp(refused="r0")
    courses = tried(trials(3), 100_000, 30.0, judge)
    assert judge.asked == [("r0", 512), ("r1", 512), ("r1", 64)]
    assert [course.outcome for course in courses] == ["refused", "out of time", "out of time"]
    assert courses[1].standing[0] == 64


def test_more_rows_count_more_than_a_better_value() -> None:
    def judge(trial: Trial, rows: int) -> Judged:
        return Judged(rows, {"r0": 0.5, "r1": 0.4}[trial.recipe_name] + (0.0 if rows == 1 else -0.3), 1.0, "")

    courses = halve(trials(2), 1, 1e9, judge)
    assert [course.standing for course in courses] == [(9, pytest.approx(0.2)), (1, 0.4)]
    assert courses[0].last.rows == 9


@pytest.mark.parametrize(
    ("number", "rows", "seconds", "a_row", "expected"),
    [
        (10, 100_000, 3000.0, 0.1, 1000),  # three rungs of 1,000 seconds: ten runs of 1,000 rows, three of 3,000 …
        (10, 4500, 3000.0, 0.1, 500),  # nine times as many must be there
        (10, 100_000, 1.0, 0.1, 64),
        (10, 90, 1.0, 0.1, 10),
        (1, 5, 1e9, 0.1, 1),
    ],
)
def test_rows_of_the_first_rung(number: int, rows: int, seconds: float, a_row: float, expected: int) -> None:
    assert first_rows_of(number, rows, seconds, a_row) == expected


def test_trials_are_every_recipe_with_every_rate_in_order_of_hope() -> None:
    other = Candidate(Shape(1, Width(16, 2, 24), 5, 20), PLAIN, cost())
    recipes = {"soft_targets": RECIPE, "minilm_v2": Recipe.load("comparisons/minilm_v2")}
    found = trials_of([CANDIDATE, other], recipes, (1.0, 4.0))
    assert [trial.name for trial in found[:3]] == [
        "2x32-float32-eager-soft_targets-1",
        "1x16-24-float32-eager-soft_targets-1",
        "2x32-float32-eager-minilm_v2-1",
    ]
    assert len({trial.name for trial in found}) == 8

    def rates(trial: Trial) -> list[Any]:
        return [stage.arguments["learning_rate"] for stage in trial.recipe.stages]

    assert rates(found[2]) == [5e-5, 5e-5]
    assert rates(found[6]) == [pytest.approx(2e-4), pytest.approx(2e-4)]
    shape = found[5].recipe.student.from_shape
    assert shape is not None
    assert (shape.num_hidden_layers, shape.hidden_size, shape.initialisation) == (1, 16, "importance")


def test_recipes_that_there_was_no_time_for_are_told() -> None:
    courses = halve(trials(3), 20, 1.0, MadeUp())
    assert told_of_untried(courses, 90.0) == (
        "The time budget of 90 s was over after 1 of 3 recipes: r1, r2 not tried. "
        "Give more (--time_budget), or fewer recipes (--recipes)."
    )
    assert told_of_untried(halve(trials(3), 20, 1e9, MadeUp()), 90.0) == ""


def runner(folder: Path) -> Runner:
    return Runner(None, folder)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changed", [{"value": float("nan")}, {"seconds": -1}, {"rows": 0}, {"rows": 10**30}, {"value": "x"}, {"more": 1}]
)
def test_a_result_that_no_trial_had_is_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    trial = trials(1)[0]
    path = tmp_path / trial.name / "64-rows.json"
    path.parent.mkdir()
    told = {"rows": 64, "value": 0.5, "seconds": 1.5, "folder": "x", "message": ""}
    path.write_text(json.dumps(told))
    assert runner(tmp_path).judged(trial, 64) == Judged(64, 0.5, 1.5, "x")
    path.write_text(json.dumps(told | changed))
    (name,) = changed
    with pytest.raises(DataError, match=rf"64-rows\.json holds no result of a trial .*{name}.*remove it"):
        runner(tmp_path).judged(trial, 64)


def test_a_trial_whose_metric_is_none_counts_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = SimpleNamespace(value=lambda: float("nan"))  # as a correlation with answers that are all the same
    monkeypatch.setattr(module, "on_held_out", lambda recipe, held_out, rows: recipe)
    monkeypatch.setattr(module, "run", lambda recipe, place, evaluate: None)
    monkeypatch.setattr(module, "evidence_of", lambda recipe, place: ("accuracy", nothing))
    found = runner(tmp_path).judged(trials(1)[0], 64)
    assert (found.value, found.message) == (None, "the metric on the rows held out is nan")
    assert runner(tmp_path).judged(trials(1)[0], 64) == found


def test_a_trial_that_was_broken_off_starts_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of it would take a part of the time alone, of which the rows of all others follow."""
    trial, there = trials(1)[0], []
    left = tmp_path / trial.name / "64-rows" / "stages" / "01-distil" / "checkpoint-345"
    left.mkdir(parents=True)
    monkeypatch.setattr(module, "on_held_out", lambda recipe, held_out, rows: recipe)
    monkeypatch.setattr(module, "run", lambda recipe, place, evaluate: there.extend(place.glob("**/*")))
    monkeypatch.setattr(module, "evidence_of", lambda recipe, place: ("accuracy", SimpleNamespace(value=lambda: 0.5)))
    runner(tmp_path).judged(trial, 64)
    assert there == []


@pytest.mark.parametrize(("error", "ends"), [(DistillationError, False), (DataError, False), (NonFiniteLoss, False),
                                             (UnreadableModel, True), (HubError, True)])  # fmt: skip
def test_a_recipe_that_does_not_fit_is_passed_over_and_a_broken_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], ends: bool
) -> None:
    def run(recipe: Recipe, place: Path, evaluate: bool) -> None:
        raise error("so it is")

    monkeypatch.setattr(module, "on_held_out", lambda recipe, held_out, rows: recipe)
    monkeypatch.setattr(module, "run", run)
    if ends:
        with pytest.raises(error, match="so it is"):
            runner(tmp_path).judged(trials(1)[0], 64)
        assert list(tmp_path.glob("*/*.json")) == []
    else:
        found = runner(tmp_path).judged(trials(1)[0], 64)
        assert (found.value, found.message) == (None, "so it is")


def test_no_stage_of_a_trial_ends_with_its_best_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is kept."""
    given: list[Recipe] = []
    monkeypatch.setattr(module, "on_held_out", lambda recipe, held_out, rows: recipe)
    monkeypatch.setattr(module, "run", lambda recipe, place, evaluate: given.append(recipe))
    monkeypatch.setattr(module, "evidence_of", lambda recipe, place: ("accuracy", SimpleNamespace(value=lambda: 0.5)))
    recipe = Recipe.load("review/annealing")
    assert recipe.stages[0].arguments["load_best_model_at_end"] is True
    runner(tmp_path).judged(replace(trials(1)[0], recipe=recipe), 64)
    told = [(stage.arguments["load_best_model_at_end"], stage.arguments["save_strategy"]) for stage in given[0].stages]
    assert told == [(False, "no")] * 2
