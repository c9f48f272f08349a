"""The worked example of a new objective: its class registers, its own test passes, its recipe loads."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest

from hf_distill import objectives
from hf_distill.objectives import registry
from tests.docs.pages import blocks

WORKED = {block.marker.removeprefix("worked: "): block for block in blocks("python") if "worked:" in block.marker}
MODULE = "hf_distill.objectives.response.jeffreys"


def run(block: str, name: str) -> dict[str, object]:
    """The names that a block of the page defines, as a module of its own."""
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(WORKED[block].code, WORKED[block].place, "exec"), made.__dict__)
    return made.__dict__


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    run("class", MODULE)
    yield
    del registry._registry["jeffreys"], sys.modules[MODULE]


def test_its_own_test_passes() -> None:
    tests = [value for name, value in run("test", "worked_test").items() if name.startswith("test_")]
    (test,) = tests
    assert callable(test)
    test()


def test_a_recipe_finds_it() -> None:
    recipe = run("use", "worked_use")["recipe"]
    (term, _) = recipe.stages[0].terms()  # type: ignore[attr-defined]
    assert term.objective.name == "jeffreys"
    assert term.objective.settings() == {"temperature": 2.0, "tokens": None}


def test_what_it_says_of_itself_is_found() -> None:
    objective = objectives.make("jeffreys", {})
    assert (
        objective.equation
        == "L = T^2 (KL(p || q) + KL(q || p)), with p = softmax(teacher / T), q = softmax(student / T)"
    )
    assert "Jeffreys, Harold" in objective.citation
