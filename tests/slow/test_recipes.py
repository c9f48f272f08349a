"""Every other shipped recipe at tiny size; one of each method runs with the fast tests."""

from __future__ import annotations

import pytest

from hf_distill.recipe import shipped
from tests.recipes.tiny_recipes import ONE_OF_EACH, TinyRecipes

OTHERS = [name for name in shipped() if name not in (*ONE_OF_EACH, "quickstart")]
"""The quick start has a test of its own."""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRecipes:
    return TinyRecipes(tmp_path_factory.mktemp("recipes"))


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_recipe_runs(name: str, tiny: TinyRecipes) -> None:
    tiny.check(name)
