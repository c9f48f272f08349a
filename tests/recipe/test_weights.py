"""Weights in recipes: numbers, schedules, and `learned`."""

from __future__ import annotations

import pytest

from hf_distill import Learned, Schedule
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

GOOD = """\
schema: 1
task: sst2
teacher: {model: some/teacher}
student: {from_layers: {layers: 3}}
stages:
  - name: distil
    objectives:
      - {soft_targets: {}, weight: WEIGHT}
      - {labels: {}, weight: learned}
      - {hidden_mse: {}, weight: {learned: {}}}
"""


def recipe(weight: str) -> Recipe:
    return Recipe.from_yaml(GOOD.replace("WEIGHT", weight))


WEIGHTS = [
    ("2", 2.0),
    ("'1e-4'", 1e-4),
    ("{linear: {from: 1, to: 0}}", Schedule.linear(1.0, 0.0)),
    ("{linear: {from: 0.5, to: 2.0, start: 0.25, stop: '0.75'}}", Schedule.linear(0.5, 2.0, start=0.25, stop=0.75)),
    ("{cosine: {from: 1, to: 0.1, stop: 0.5}}", Schedule.cosine(1.0, 0.1, stop=0.5)),
    ("{early_stop: {stop: 0.5}}", Schedule.early_stop(1.0, stop=0.5)),
    ("{early_stop: {from: 3, to: 1, stop: 0.5}}", Schedule.early_stop(3.0, stop=0.5, final=1.0)),
    ("{warmup: {to: 5, stop: 0.1}}", Schedule.warmup(5.0, stop=0.1)),
    ("{ramp_up: {stop: 0.27}}", Schedule.ramp_up(1.0, stop=0.27)),
    ("learned", Learned()),
    ("{learned: {learning_rate: 0.01}}", Learned(0.01)),
]


@pytest.mark.parametrize(("written", "weight"), WEIGHTS, ids=[written for written, _ in WEIGHTS])
def test_a_weight_says_what_it_is_and_is_written_back(written: str, weight: float | Schedule | Learned) -> None:
    made = recipe(written)
    assert [term.weight for term in made.stages[0].terms()] == [weight, Learned(), Learned()]
    again = Recipe.from_yaml(made.to_yaml())
    assert again == made
    assert Recipe.from_dict(made.to_dict()) == made


def test_a_schedule_can_be_overridden() -> None:
    changed = recipe("{linear: {from: 1, to: 0}}").override(
        {
            "stages.distil.objectives.0.weight.linear.stop": 0.5,
            "stages.0.objectives.1.weight": 1.5,
            "stages.0.objectives.hidden_mse.weight": 2.5,
        }
    )
    weights = [term.weight for term in changed.stages[0].terms()]
    assert weights == [Schedule.linear(1.0, 0.0, stop=0.5), 1.5, 2.5]


BAD = [
    ("-1", "weight: must be greater than or equal to 0; given -1"),
    ("true", "weight: must be a number; given true"),
    ("[1, 2]", "weight: must be a number; given a list of 2"),
    ("fast", "weight: must be a number; given 'fast'"),
    ("{}", r"weight: give exactly one of linear, cosine, early_stop, warmup, ramp_up, learned; found none of them"),
    ("{linear: {from: 1, to: 0}, learned: {}}", "weight: .*; found linear and learned"),
    ("{liner: {from: 1, to: 0}}", r"weight\.liner: unknown key; did you mean 'linear'\?"),
    ("{linear: 3}", r"weight\.linear: must be a mapping; given 3"),
    ("{linear: {from: 1}}", r"weight\.linear\.to: is missing"),
    ("{linear: {from: 1, to: 0, end: 1}}", r"weight\.linear\.end: unknown key.*from, to, start, stop"),
    ("{linear: {from: 1, to: -1}}", r"weight\.linear\.to: must be greater than or equal to 0; given -1"),
    ("{linear: {from: .inf, to: 1}}", r"weight\.linear\.from: must be a"),
    ("{early_stop: {stop: 2}}", r"weight\.early_stop\.stop: must be less than or equal to 1; given 2"),
    (
        "{cosine: {from: 1, to: 0, start: 0.5, stop: 0.2}}",
        r"weight\.cosine: the cosine schedule runs from 0\.5 to 0\.2",
    ),
    ("{learned: {learning_rate: 0}}", r"weight\.learned\.learning_rate: must be greater than 0; given 0"),
]


@pytest.mark.parametrize(("written", "words"), BAD, ids=[written for written, _ in BAD])
def test_what_is_no_weight_is_refused_with_its_line(written: str, words: str) -> None:
    with pytest.raises(RecipeError, match=rf"line 8, stages\[0\]\.objectives\[0\]\.{words}"):
        recipe(written)


@pytest.mark.parametrize("only", ["learned", "{learned: {learning_rate: 0.1}}"])
def test_one_learned_weight_is_refused(only: str) -> None:
    text = GOOD.replace("weight: learned", "weight: 1").replace("weight: {learned: {}}", "weight: 1")
    with pytest.raises(RecipeError, match=r"objectives\[0\]\.weight: is learned, and no other weight of the stage is"):
        Recipe.from_yaml(text.replace("WEIGHT", only))
