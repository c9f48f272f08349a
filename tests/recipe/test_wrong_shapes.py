"""Every value in the shipped recipes, with one of another shape in its place: read, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_distill import Recipe
from hf_distill.errors import RecipeError

RECIPES = Path(__file__).parents[2] / "recipes"
SHAPES: list[Any] = [None, True, 7, -1.5, "x", [], {}, [[]], {"weight": 1}, ["a", ["b"]]]
Place = tuple[str | int, ...]


def places(node: Any, here: Place = ()) -> Iterator[Place]:
    """The places of all values below a value."""
    below = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in below:
        yield (*here, key)
        yield from places(value, (*here, key))


def cases() -> dict[Place, tuple[dict[str, Any], Place]]:
    """For each place, whatever the number of an item, the first recipe that has it, and where."""
    found: dict[Place, tuple[dict[str, Any], Place]] = {}
    for path in sorted(RECIPES.rglob("*.yaml")):
        if path.parent.name == "accelerate":
            continue
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        for place in places(data):
            found.setdefault(tuple("#" if isinstance(key, int) else key for key in place), (data, place))
    return found


def with_value(data: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    made = copy.deepcopy(data)
    at: Any = made
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return made


def test_a_value_of_any_shape_is_read_or_refused() -> None:
    asked = cases()
    refused = 0
    for data, place in asked.values():
        for value in SHAPES:
            try:
                Recipe.from_dict(with_value(data, place, value))
            except RecipeError:
                refused += 1
            except Exception as error:
                pytest.fail(f"{place}: {value!r}: {type(error).__name__}: {error}")
    assert len(asked) > 400
    assert refused > 5 * len(asked)
