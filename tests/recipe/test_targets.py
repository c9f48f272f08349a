"""What a recipe says of texts that the teacher writes."""

from __future__ import annotations

from typing import Any

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

BASE: dict[str, Any] = {
    "schema": 1,
    "data": {"files": {"train": "a.jsonl", "validation": "b.jsonl"}, "translation": {}},
    "teacher": {"model": "x", "generate": {"beams": 4, "hypotheses": 2}},
    "student": {"from_layers": {"layers": 1}},
    "stages": [{"name": "a", "targets": "all", "objectives": [{"nbest_kd": {}}]}],
}
LABELS: dict[str, Any] = {"name": "a", "objectives": [{"labels": {}}]}
NEAREST = {**LABELS, "targets": "nearest"}
CHATS: dict[str, Any] = {"files": {"train": "a.jsonl", "validation": "b.jsonl"}, "chat": {}}
OWN = {"model": "x", "tokenizer": "own", "generate": {}}
SOUNDS: dict[str, Any] = {"files": {"train": "a.jsonl", "validation": "b.jsonl"}, "speech": {}}


def test_it_is_taken_as_it_is_written() -> None:
    made = Recipe.from_dict(BASE)
    assert made.teacher is not None
    assert made.teacher.generate is not None
    assert (made.teacher.generate.beams, made.teacher.generate.max_new_tokens) == (4, 128)
    assert made.stages[0].targets == "all"
    assert Recipe.from_yaml(made.to_yaml()) == made


@pytest.mark.parametrize("teacher", [{"model": "x", "generate": {}}, OWN])
def test_teachers_answer_conversations(teacher: dict[str, Any]) -> None:
    changes = {"data": CHATS, "teacher": teacher, "student": {"model": "y"}, "stages": [{**LABELS, "targets": "best"}]}
    assert Recipe.from_dict({**BASE, **changes}).stages[0].targets == "best"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"teacher": {"model": "x"}}, r"stages\[0\]\.targets.*it writes nothing; add teacher.generate"),
        ({"stages": [LABELS]}, r"teacher\.generate.*is read by no stage"),
        ({"stages": [{**BASE["stages"][0], "targets": "best"}]}, r"targets.*must be all: nbest_kd"),
        ({"teacher": {"model": "x", "generate": {"beams": 2, "hypotheses": 3}}}, "are 3, and there are 2 beams"),
        (
            {"teacher": {"model": "x", "generate": {"beams": 2, "drawing": {}}}},
            r"generate\.beams.*drawing takes its place",
        ),
        ({"data": SOUNDS, "teacher": {"model": "x", "generate": {"drawing": {}}}}, "is about texts, and the data"),
        (
            {"teacher": {"model": "x", "generate": {"length_penalty": 800.0}}},
            "length_penalty.*less than or equal to 50",
        ),
        ({"teacher": {"model": "x", "generate": {"drawing": {"temperature": 0.0}}}}, "temperature.*greater than 0"),
        ({"teacher": {"model": "x", "generate": {}, "cache": {}}}, r"does not go with teacher\.cache"),
        ({"teacher": {"moving_average": {}, "generate": {}}}, r"does not go with teacher\.moving_average"),
        (
            {"data": None, "task": "sst2"},
            r"is for pairs of texts \(data\.translation\), conversations",
        ),
        ({"data": SOUNDS, "stages": [NEAREST]}, "may not be nearest where the data are sounds"),
        (
            {"data": SOUNDS, "teacher": {"model": "x", "generate": {"max_new_tokens": 9}}},
            "is about texts, and the data",
        ),
        ({"data": {**SOUNDS, "files": None, "hub": {"id": "x"}}}, "does not go with speech; give files"),
        ({"stages": [{"name": "a", "objectives": [{"ctc_nbest_kd": {}}]}]}, "must be all: ctc_nbest_kd"),
        ({"data": {**CHATS, "chat": {"packing": True}}}, r"nbest_kd: weighs rows of one answer.*data\.chat\.packing"),
        (
            {"data": CHATS, "teacher": OWN, "student": {"model": "y"}},
            r"nbest_kd: weighs rows of one answer.*teacher\.tokenizer: own aligns",
        ),
        ({"stages": [{**BASE["stages"][0], "targets": "worst"}]}, "targets"),
        ({"teacher": {"model": "x", "generate": {"beam": 2}}}, "beam"),
        ({"data": SOUNDS, "teacher": {"model": "x", "generate": {"filters": {"distinct": True}}}}, "is about texts"),
        ({"teacher": {"model": "x", "generate": {"filters": {"distict": True}}}}, "did you mean 'distinct'"),
        ({"teacher": {"model": "x", "generate": {"filters": {"max_repetition": 2}}}}, "max_repetition.*given 2"),
        (
            {"teacher": {"model": "x", "generate": {"filters": {"min_tokens": 9, "max_tokens": 3}}}},
            "min_tokens: is 9, and max_tokens 3; no text has both",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    written = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    with pytest.raises(RecipeError, match=words):
        Recipe.from_dict(written)
