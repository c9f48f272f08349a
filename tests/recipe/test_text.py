"""Recipes of raw text: what goes together, and what is told where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe


def recipe(text: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "data": {"text": {"train": [{"files": ["a.txt"]}], **text}},
        "teacher": {"model": "teacher"},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": [{"labels": {}}], "arguments": {"max_steps": 10}}],
        **changes,
    }


def test_defaults() -> None:
    text = Recipe.from_dict(recipe({})).data.text  # type: ignore[union-attr]
    assert text is not None
    assert (text.task, text.packing, text.held_out, text.streaming) == ("masked_lm", "full", 1000, False)
    again = Recipe.from_yaml(Recipe.from_dict(recipe({"masking": {"smoothing": 0.7}})).to_yaml())
    assert again.data.text.masking.smoothing == 0.7  # type: ignore[union-attr]


TWO = [{"files": ["a.txt"]}, {"hub": {"id": "some/corpus"}}]
WEIGHED = [{**source, "weight": 1.0} for source in TWO]
HELD = [{"files": ["b.txt"]}]

REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "files beside text": (
        recipe({}, data={"files": {"train": "a.csv"}, "text": {"train": [{"files": ["a.txt"]}]}}),
        "data.files: does not go with text",
    ),
    "a split": (
        recipe({}, data={"split": {"validation": 0.1}, "text": {"train": [{"files": ["a.txt"]}]}}),
        "data.split: does not go with text",
    ),
    "labels": (
        recipe({}, data={"label_column": "x", "text": {"train": [{"files": ["a.txt"]}]}}),
        "data.label_column: goes with text_columns",
    ),
    "two kinds": (
        recipe({}, data={"text_columns": ["x"], "label_column": "y", "text": {"train": [{"files": ["a.txt"]}]}}),
        "found text_columns and text",
    ),
    "no source": (recipe({"train": []}), "at least 1 entry"),
    "an empty source": (
        recipe({"train": [{"column": "x"}]}),
        r"data.text.train\[0\]: give exactly one of files and hub",
    ),
    "both in one": (
        recipe({"train": [{"files": ["a.txt"], "hub": {"id": "some/corpus"}}]}),
        "found files and hub",
    ),
    "some weights": (recipe({"train": [WEIGHED[0], TWO[1]]}), "data.text.train: has weights for some"),
    "a weight of validation": (recipe({"validation": WEIGHED}), "weight: is for training text"),
    "a weight of nothing": (recipe({"train": [{"files": ["a.txt"], "weight": 0}]}), "weight"),
    "a stream of unknown shares": (
        recipe({"train": TWO, "validation": HELD, "streaming": True}),
        "data.text.train: needs a weight for each source of a stream",
    ),
    "a stream without validation": (recipe({"streaming": True}), "data.text.validation: is missing"),
    "a stream without end": (
        recipe({"streaming": True, "validation": HELD}, stages=[{"name": "distil", "objectives": [{"labels": {}}]}]),
        r"stages\[0\].arguments: needs max_steps",
    ),
    "a stream of so many rows": (
        recipe({"streaming": True, "validation": HELD}, max_samples={"train": 9}),
        "max_samples.train: does not go with a stream",
    ),
    "a budget for a stream": (
        recipe(
            {"streaming": True, "validation": HELD},
            stages=[
                {
                    "name": "distil",
                    "objectives": [{"labels": {}}],
                    "arguments": {"max_steps": 5},
                    "tokens_per_batch": 9,
                }
            ],
        ),
        r"stages\[0\].tokens_per_batch: needs the lengths of all rows",
    ),
    "a budget for weighed sources": (
        recipe(
            {"train": WEIGHED},
            stages=[{"name": "distil", "objectives": [{"labels": {}}], "tokens_per_batch": 9}],
        ),
        r"stages\[0\].tokens_per_batch: does not go with weights",
    ),
    "counts alone": (recipe({"masking": {"counts": "counts.json"}}), "counts: goes with smoothing"),
    "two maskings": (recipe({"masking": {"smoothing": 0.7, "whole_word": True}}), "choose one of them"),
    "a masked encoder": (recipe({"task": "encoder", "masking": {"probability": 0.2}}), "masking: needs labels"),
    "an encoder's control": (recipe({"task": "encoder"}, control=True), "control: needs labels"),
    "a share above one": (recipe({"masking": {"masked": 1.2}}), "masking.masked"),
    "nothing hidden": (recipe({"masking": {"probability": 0.0}}), "masking.probability"),
    "an unknown packing": (recipe({"packing": "ful"}), "did you mean 'full'"),
    "an unknown key": (recipe({"pack": "full"}), "unknown key; did you mean 'packing'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together_is_told(name: str) -> None:
    data, message = REFUSED[name]
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(data)


def test_a_stream_of_weighed_sources_is_a_recipe() -> None:
    found = Recipe.from_dict(recipe({"train": WEIGHED, "validation": HELD, "streaming": True}))
    assert [source.weight for source in found.data.text.train] == [1.0, 1.0]  # type: ignore[union-attr]
