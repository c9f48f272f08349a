"""The data of a recipe to start from: what the teacher's task and the flags say of columns and labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_distill.inspection.starting import data_for
from tests import tiny_runs, tiny_sentences, tiny_tasks

FILES = {"files": {"train": "t.jsonl", "validation": "v.jsonl"}}


def test_tags_stand_where_the_flags_or_else_the_script_look_for_them(tmp_path: Path) -> None:
    teacher = str(tiny_tasks.save_tagger(tmp_path / "tagger"))
    names = {"tag_names": [*tiny_tasks.TAGS]}
    assert data_for(teacher, FILES, {})["token_classification"] == {"tags_column": "ner_tags", **names}
    columns = {"text_columns": ["words"], "label_column": "pos"}
    wanted = {"tokens_column": "words", "tags_column": "pos", **names}
    assert data_for(teacher, FILES, columns)["token_classification"] == wanted


@pytest.mark.parametrize("labels", [("LABEL_0", "LABEL_1"), ("0", "1")])
def test_labels_without_names_are_left_to_the_data(tmp_path: Path, labels: tuple[str, ...]) -> None:
    teacher = str(tiny_runs.save_teacher(tmp_path / "teacher", labels=labels))
    assert "label_names" not in data_for(teacher, FILES, {})
    tagger = str(tiny_tasks.save_tagger(tmp_path / "tagger", tags=labels))
    assert "tag_names" not in data_for(tagger, FILES, {})["token_classification"]


@pytest.mark.parametrize(
    ("columns", "wanted"),
    [
        ({}, {"text_columns": ["text"], "pair_columns": ["sentence1", "sentence2"], "score_column": "label"}),
        ({"text_columns": ["a", "b"]}, {"text_columns": ["a", "b"]}),
        ({"text_columns": ["a", "b"], "label_column": "g"}, {"text_columns": ["a", "b"], "score_column": "g"}),
        (
            {"text_columns": ["a"], "label_column": "g"},
            {"text_columns": ["a"], "pair_columns": ["sentence1", "sentence2"], "score_column": "g"},
        ),
    ],
)
def test_sentences_are_compared_in_the_columns_of_the_flags(
    tmp_path: Path, columns: dict[str, Any], wanted: dict[str, Any]
) -> None:
    teacher = str(tiny_sentences.save_encoder(tmp_path / "encoder"))
    assert data_for(teacher, FILES, columns)["embeddings"] == wanted
