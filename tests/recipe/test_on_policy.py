"""What a recipe and flags say of texts that the student writes while it trains."""

from __future__ import annotations

from typing import Any

import pytest

from hf_distill import OnPolicy
from hf_distill.commands import mlm, translation
from hf_distill.commands.flags import Flags
from hf_distill.commands.overrides import recipe_of
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.preparation import plan

BASE: dict[str, Any] = {
    "schema": 1,
    "data": {"files": {"train": "a.jsonl", "validation": "b.jsonl"}, "translation": {}},
    "teacher": {"model": "x"},
    "student": {"from_layers": {"layers": 1}},
    "stages": [{"name": "a", "on_policy": {"student_share": 0.25}, "objectives": [{"soft_targets": {}}]}],
}
TEXT = {"text": {"train": [{"files": ["a.txt"]}], "task": "causal_lm"}}
ALL = {
    "student_share": 0.25, "teacher_share": "0.5", "temperature": 0.9, "top_k": 40, "top_p": 0.95,
    "max_new_tokens": 32, "prompt_tokens": 16, "end_tokens": ["<end>"], "rows_at_once": 8,
}  # fmt: skip


def stage(policy: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"stages": [{**BASE["stages"][0], "on_policy": policy, **changes}]}


def test_it_is_taken_as_it_is_written_and_reaches_the_trainer(tmp_path: Any) -> None:
    made = Recipe.from_dict({**BASE, "data": TEXT, **stage(ALL)})
    assert Recipe.from_yaml(made.to_yaml()) == made
    job = plan(made, RunFolder(tmp_path)).student[0]
    assert job.on_policy == OnPolicy(**{**ALL, "teacher_share": 0.5, "end_tokens": ("<end>",)})
    assert plan(Recipe.from_dict({**BASE, **stage({})}), RunFolder(tmp_path)).student[0].on_policy == OnPolicy()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (stage({"student_share": 1.5}), r"on_policy\.student_share.*less than or equal to 1; given 1\.5"),
        (stage({"student_share": 0.75, "teacher_share": 0.5}), r"teacher_share: is 0\.5, with student_share 1\.25"),
        (stage({"lambda": 0.5}), "unknown key"),
        (stage({"student_shares": 0.5}), "did you mean 'student_share'"),
        (stage({"top_p": 0.0}), r"top_p.*greater than 0"),
        (stage({"max_new_tokens": 0}), "max_new_tokens"),
        (stage({"prompt_tokens": 5}), r"prompt_tokens: is for plain text"),
        (stage({}, objectives=[{"labels": {}}]), "on_policy: teaches the student nothing by itself"),
        ({"teacher": {"model": "x", "cache": {}}}, r"on_policy: does not go with teacher\.cache"),
        (
            {"teacher": {"moving_average": {}}, "student": {"model": "y"}, **stage({"teacher_share": 0.1})},
            r"teacher_share: has the teacher write, and it is made by moving_average",
        ),
        ({"data": TEXT}, r"on_policy\.prompt_tokens: is missing: plain text marks no prompts"),
        (
            {"data": {"text": {**TEXT["text"], "task": "masked_lm"}}},
            "text for the task masked_lm, whose models do not",
        ),
        (
            {"data": {**BASE["data"], "translation": None, "chat": {"packing": True}}},
            r"on_policy: has a text written for each row, and data\.chat\.packing puts several",
        ),
        ({"data": None, "task": "sst2"}, "the data are a GLUE task, whose models do not"),
        ({"data": {"files": {"train": "a"}, "token_classification": {}}}, "the data are token_classification"),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict[str, Any], words: str) -> None:
    written = {key: value for key, value in {**BASE, **changes}.items() if value is not None}
    with pytest.raises(RecipeError, match=words):
        Recipe.from_dict(written)


def test_flags_change_the_stages_that_compare() -> None:
    own = {
        "recipe": "language_models/on_policy_text", "train_file": ["b.txt"], "student_share": 0.75,
        "on_policy": {"temperature": 0.9, "prompt_tokens": 8},
    }  # fmt: skip
    made, _ = recipe_of(Flags(own, {}), mlm.SCRIPT)
    for each in made.stages:
        assert each.on_policy is not None
        found = (each.on_policy.student_share, each.on_policy.temperature, each.on_policy.prompt_tokens)
        assert found == (0.75, 0.9, 8)
    assert made.stages[1].on_policy.max_new_tokens == 128  # type: ignore[union-attr]
    assert made.stages[0].on_policy.max_new_tokens == OnPolicy().max_new_tokens  # type: ignore[union-attr]


def test_flags_that_find_no_stage_or_setting_are_named() -> None:
    plain = {"train_file": "a.jsonl", "teacher_name_or_path": "x", "student_layers": 1}
    with pytest.raises(RecipeError, match="--student_share is given, and no stage of the recipe has a term that"):
        recipe_of(Flags({**plain, "student_share": 0.5}, {}), translation.SCRIPT)
    gkd = {"recipe": "review/gkd", "on_policy": {"temprature": 0.9}}
    with pytest.raises(RecipeError, match="did you mean 'temperature'"):
        recipe_of(Flags(gkd, {}), translation.SCRIPT)
