"""Recipes of questions and of tagged tokens: what is written, and what is refused with its line."""

from __future__ import annotations

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

QUESTIONS = """\
schema: 1
data:
  hub: {id: rajpurkar/squad_v2, revision: v1}
  question_answering: {version_2_with_negative: true, doc_stride: 64, null_score_diff_threshold: "-2"}
student: {model: some/student}
stages: [{name: only, objectives: [{labels: {}}]}]
"""

TAGS = """\
schema: 1
data:
  files: {train: a.jsonl, validation: b.jsonl}
  token_classification: {tokens_column: words, tags_column: tags, tag_names: [O, B-PER]}
student: {model: some/student}
stages: [{name: only, objectives: [{labels: {}}]}]
"""


def test_questions_give_what_is_written() -> None:
    data = Recipe.from_yaml(QUESTIONS).data
    assert data is not None
    assert data.hub is not None
    assert data.question_answering is not None
    assert (data.hub.id, data.hub.config, data.hub.revision) == ("rajpurkar/squad_v2", None, "v1")
    settings = data.question_answering
    assert (settings.version_2_with_negative, settings.null_score_diff_threshold) == (True, -2.0)
    assert (settings.doc_stride, settings.n_best_size, settings.max_answer_length) == (64, 20, 30)


def test_tags_give_what_is_written() -> None:
    data = Recipe.from_yaml(TAGS).data
    assert data is not None
    settings = data.token_classification
    assert settings is not None
    assert (settings.tokens_column, settings.tags_column, settings.tag_names) == ("words", "tags", ["O", "B-PER"])
    assert settings.label_all_tokens is False


@pytest.mark.parametrize("text", [QUESTIONS, TAGS])
def test_they_survive_yaml(text: str) -> None:
    recipe = Recipe.from_yaml(text)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


ASKED = 'question_answering: {version_2_with_negative: true, doc_stride: 64, null_score_diff_threshold: "-2"}'
TAGGED = "token_classification: {tokens_column: words, tags_column: tags, tag_names: [O, B-PER]}"


@pytest.mark.parametrize(
    ("text", "before", "after", "words"),
    [
        (
            QUESTIONS,
            "doc_stride: 64",
            "doc_strid: 64",
            ["line 4", "answering.doc_strid", "'doc_stride'?"],
        ),
        (QUESTIONS, "doc_stride: 64", "doc_stride: 0", ["line 4", "greater than or equal to 1", "given 0"]),
        (QUESTIONS, "version_2_with_negative: true", "version_2_with_negative: 1", ["line 4", "true or false"]),
        (QUESTIONS, '"-2"', "low", ["line 4", "null_score_diff_threshold", "number", "'low'"]),
        (QUESTIONS, "{id: rajpurkar/squad_v2, revision: v1}", "{}", ["line 3", "data.hub.id", "is missing"]),
        (
            QUESTIONS,
            ASKED,
            "split: {validation: 0.1}",
            ["line 2, data", "exactly one of text_columns", "none"],
        ),
        (QUESTIONS, ASKED, "question_anwering: {}", ["line 4", "did you mean 'question_answering'?"]),
        (
            QUESTIONS,
            "  hub:",
            "  files: {train: x}\n  hub:",
            ["line 2, data", "exactly one of files", "files and hub"],
        ),
        (QUESTIONS, ASKED, "text_columns: [a]", ["data.label_column", "is missing"]),
        (QUESTIONS, ASKED, "text_columns: [label]\n  label_column: b", ["data.text_columns", "rename that column"]),
        (
            QUESTIONS,
            "stages:",
            "dataset_dir: x\nstages:",
            ["line 6, dataset_dir", "GLUE task"],
        ),
        (TAGS, "tags_column: tags", "tag_column: tags", ["line 4", "did you mean 'tags_column'?", "is missing"]),
        (TAGS, "[O, B-PER]", "[O, O]", ["line 4", "'O' is given twice"]),
        (TAGS, "[O, B-PER]", "[O]", ["line 4", "at least 2 entries"]),
        (TAGS, "tags_column: tags", "tags_column: 3", ["line 4", "must be text", "in quotes"]),
        (
            TAGS,
            TAGGED,
            f"{TAGGED}\n  question_answering: {{}}",
            ["line 2, data", "question_answering and token_c"],
        ),
        (TAGS, TAGGED, f"{TAGGED}\n  label_names: [a, b]", ["line 5, data.label_names", "goes with text_columns"]),
        (TAGS, TAGGED, f"{TAGGED}\n  regression: true", ["line 5, data.regression", "goes with text_columns"]),
        (TAGS, TAGGED, f"{TAGGED}\n  deduplicate: true", ["line 5, data.deduplicate", "goes with text_columns"]),
        (TAGS, TAGGED, f"{TAGGED}\n  where: {{a: 1}}", ["line 5, data.where", "goes with text_columns"]),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text: str, before: str, after: str, words: list[str]) -> None:
    assert text.count(before) == 1
    with pytest.raises(RecipeError) as caught:
        Recipe.from_yaml(text.replace(before, after))
    for word in words:
        assert word in str(caught.value)


def test_the_shipped_recipes_say_what_their_rows_are() -> None:
    for name in ("qa/squad", "qa/squad_v2"):
        data = Recipe.load(name).data
        assert data is not None
        assert data.question_answering is not None
        assert data.question_answering.version_2_with_negative is name.endswith("v2")
    data = Recipe.load("ner/uner_ewt").data
    assert data is not None
    assert data.token_classification is not None
