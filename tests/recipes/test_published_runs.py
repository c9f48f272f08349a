"""Recipes of published configurations at tiny size, from the file to the student: one of each method."""

from __future__ import annotations

import pytest

from tests.recipes.tiny_recipes import ONE_OF_EACH, TinyRecipes


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyRecipes:
    return TinyRecipes(tmp_path_factory.mktemp("recipes"))


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_published_recipe_runs(name: str, tiny: TinyRecipes) -> None:
    tiny.check(name)


def test_a_recipe_starts_from_what_another_one_left(tiny: TinyRecipes) -> None:
    found = tiny.recipe("pretraining/minilm_6x384")
    assert found.teacher is not None
    assert found.teacher.model == str(tiny.home / "pretraining/minilm_12x384")
    task = tiny.recipe("tasks/tinybert_4_stsb")
    assert task.student.model == str(tiny.home / "pretraining/tinybert_4_general")
