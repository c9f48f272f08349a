"""Recipes drawn at random are built or refused by name, and never end in another error."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hf_distill.errors import DistillationError, RecipeError
from hf_distill.recipe import Recipe
from tests.property.drawing import recipes

SCHEMA = Recipe.json_schema()
SMALL = {
    "schema": 1,
    "task": "sst2",
    "teacher": {"model": "a/b"},
    "student": {"from_layers": {"layers": 2}},
}
"""What is around stages that are drawn alone, which reach further than whole recipes."""


def refusal(data: Any) -> str:
    """Why a recipe is not built; nothing where it is. What is built says the same again, and has terms, unless their
    settings go against each other.
    """
    try:
        recipe = Recipe.from_dict(data, "drawn.yaml")
    except RecipeError as error:
        return str(error)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    for stage in recipe.stages:
        with suppress(DistillationError):
            assert len(stage.terms()) == len(stage.objectives)
    return ""


def run(number: int, drawn: st.SearchStrategy[Any]) -> list[bool]:
    taken: list[bool] = []
    quick = settings(
        max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )

    @quick
    @given(data=drawn)
    def each(data: Any) -> None:
        found = refusal(data)
        assert not found or found.startswith("drawn.yaml: ")
        taken.append(not found)

    each()
    return taken


@pytest.mark.parametrize("number", [15, pytest.param(2000, marks=pytest.mark.slow)])
def test_whole_recipes(number: int) -> None:
    taken = run(number, recipes(SCHEMA))
    assert not all(taken)


@pytest.mark.parametrize("number", [30, pytest.param(2000, marks=pytest.mark.slow)])
def test_stages(number: int) -> None:
    stage = {**SCHEMA["$defs"]["Stage"], "$defs": SCHEMA["$defs"]}
    stages = st.lists(recipes(stage), min_size=1, max_size=2)
    taken = run(number, stages.map(lambda drawn: {**SMALL, "stages": drawn}))
    assert any(taken)
    assert not all(taken)
