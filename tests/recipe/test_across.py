"""What a recipe says of a teacher that reads by its own tokenizer."""

from __future__ import annotations

from typing import Any

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

TEXT: dict[str, Any] = {
    "train": [{"files": ["a.txt"]}],
    "validation": [{"files": ["b.txt"]}],
    "task": "causal_lm",
    "packing": "none",
}
CHAT: dict[str, Any] = {"files": {"train": "a.jsonl"}, "split": {"validation": 0.1}, "chat": {}}
TEACHER = {"model": "x", "tokenizer": "own"}
BASE: dict[str, Any] = {
    "schema": 1,
    "data": {"text": TEXT},
    "teacher": TEACHER,
    "student": {"model": "y"},
    "stages": [{"name": "a", "objectives": [{"uld": {}}, {"labels": {}}]}],
}


@pytest.mark.parametrize("data", [BASE["data"], CHAT], ids=["text", "chat"])
def test_it_is_taken_as_it_is_written(data: dict[str, Any]) -> None:
    made = Recipe.from_dict({**BASE, "data": data})
    assert made.teacher is not None
    assert made.teacher.tokenizer == "own"
    assert Recipe.from_yaml(made.to_yaml()) == made


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"model": "x", "tokenizer": "mine"}}, r"teacher\.tokenizer.*must be 'own'; given 'mine'"),
        ({"teacher": {"model": "x"}}, r"stages\[0\].objectives\[0\].uld.*set teacher.tokenizer: own"),
        ({"teacher": {**TEACHER, "cache": {}}}, r"teacher\.cache.*reads by its own"),
        ({"teacher": {**TEACHER, "fine_tune": {}}}, r"teacher\.fine_tune.*leave fine_tune out"),
        ({"teacher": {"tokenizer": "own", "peers": {}}}, r"teacher\.peers.*leave peers out"),
        ({"student": {"from_layers": {"layers": 1}}}, r"student\.from_layers.*has another .*give model"),
        ({"stages": [{"name": "a", "objectives": [{"soft_targets": {}}]}]}, "soft_targets.*take uld or gold"),
        ({"stages": [{"name": "a", "objectives": [{"hidden_mse": {}}]}]}, "hidden_mse.*token by token"),
        ({"data": {"text": {**TEXT, "task": "masked_lm"}}}, r"teacher\.tokenizer.*next words alone"),
        ({"data": None, "task": "sst2"}, r"teacher\.tokenizer.*task: causal_lm"),
        ({"data": {"text": {**TEXT, "packing": "full"}}}, r"data\.text\.packing.*must be none"),
        ({"data": {"text": {**TEXT, "validation": None}}}, r"data\.text\.validation.*is missing"),
        ({"data": {**CHAT, "chat": {"packing": True}}}, r"data\.chat\.packing.*aligned one by one"),
        (
            {"stages": [{**BASE["stages"][0], "on_policy": {"prompt_tokens": 4}}]},
            r"stages\[0\]\.on_policy.*not aligned",
        ),
        ({"data": {"text": {**TEXT, "streaming": True}}}, r"data\.text\.streaming.*aligned before training"),
        ({"data": {"text": {**TEXT, "train": [{"files": ["a"], "weight": 2.0}]}}}, "may have no weights"),
        ({"stages": [{"name": "a", "objectives": [{"gold": {"matched_weight": 1.0}}]}]}, "unmatched_weight is not"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    written = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    with pytest.raises(RecipeError, match=words):
        Recipe.from_dict(written)
