"""Recipes that augment their rows: what goes together, and what is told where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

MADE = {"masked_lm": "some/masked-lm"}


def recipe(augmentation: Any = MADE, rows: str = "augmented", **changes: Any) -> dict[str, Any]:
    stage = {"name": "distil", "rows": rows, "objectives": [{"labels": {}}]}
    return {
        "schema": 1,
        "task": "sst2",
        "augmentation": augmentation,
        "student": {"model": "student"},
        "stages": [stage, {"name": "last", "objectives": [{"labels": {}}]}],
        **changes,
    }


def test_defaults_are_the_papers() -> None:
    found = Recipe.from_dict(recipe())
    assert found.augmentation is not None
    settings = found.augmentation
    assert (settings.samples, settings.replace, settings.candidates) == (20, 0.4, 15)
    assert settings.word_vectors is None
    assert [stage.rows for stage in found.stages] == ["augmented", "original"]
    assert Recipe.from_yaml(found.to_yaml()) == found


QA = {"hub": {"id": "some/squad"}, "question_answering": {}}

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rows of nothing": (recipe(None), r"stages\[0\].rows: are augmented, and the recipe has no augmentation"),
    "rows that nobody reads": (recipe(rows="original"), "augmentation: is read by no stage"),
    "unlabelled text": (
        recipe(task=None, data={"text": {"train": [{"files": ["a.txt"]}]}}),
        "augmentation: is for texts with a label, and the data have text;",
    ),
    "questions": (recipe(task=None, data=QA), "the data have question_answering"),
    "no model": (recipe({"samples": 20}), "augmentation.masked_lm: is missing"),
    "no sample": (recipe(MADE | {"samples": 0}), "augmentation.samples: .*greater than or equal to 1"),
    "nothing replaced": (recipe(MADE | {"replace": 0.0}), "augmentation.replace: .*greater than 0"),
    "more than all replaced": (recipe(MADE | {"replace": 1.5}), "augmentation.replace: .*less than or equal to 1"),
    "an unknown key": (recipe(MADE | {"candidate": 3}), "did you mean 'candidates'"),
    "other rows": (recipe(rows="augmentd"), "did you mean 'augmented'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    data, words = REFUSED[name]
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        Recipe.from_dict({key: value for key, value in data.items() if value is not None})


def test_own_texts_with_labels_may_be_augmented() -> None:
    data = {"files": {"train": "a.jsonl", "validation": "b.jsonl"}, "text_columns": ["text"], "label_column": "label"}
    found = Recipe.from_dict({key: value for key, value in recipe(data=data).items() if key != "task"})
    assert found.stages[0].rows == "augmented"
