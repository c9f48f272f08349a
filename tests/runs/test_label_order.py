"""Which column of a model is which class of the task."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import BertForSequenceClassification

from hf_distill.errors import IncompatiblePair
from hf_distill.recipe import Recipe
from hf_distill.runs.labels import align_labels
from hf_distill.runs.models import make_student
from hf_distill.runs.workloads import load_workload
from tests import tiny_runs

ELEVEN = tuple(map(str, range(11)))


def model_of(names: tuple[str, ...]) -> BertForSequenceClassification:
    return BertForSequenceClassification(tiny_runs.config(names))


def test_numbers_are_names_where_both_sides_have_the_same() -> None:
    """Sorted as text, 10 comes behind 1."""
    sorted_as_text = tuple(sorted(ELEVEN))
    assert sorted_as_text[2] == "10"
    model = model_of(sorted_as_text)
    columns = align_labels(model, "teacher", ELEVEN)
    assert [sorted_as_text[column] for column in columns] == list(ELEVEN)
    assert tuple(model.config.id2label[i] for i in range(11)) == sorted_as_text
    assert align_labels(model_of(("1", "0")), "student", ("0", "1")) == (1, 0)


@pytest.mark.parametrize("names", [("BAD", "good"), ("good", "bad"), ("worse", "better")])
def test_a_student_with_the_tasks_labels_keeps_them_on_its_own_columns(tmp_path: Path, names: tuple[str, str]) -> None:
    """Its head is kept: the names in the order of the data would stand on other columns of it. Other names are its new
    ones."""
    student = tiny_runs.save_teacher(tmp_path / "student", labels=names)
    rows = [{"text": tiny_runs.sentence(i)[0], "label": ("bad", "good")[i % 2]} for i in range(4)]
    path = str(tiny_runs.write_jsonl(tmp_path / "rows.jsonl", rows))
    recipe = Recipe.from_dict(
        {
            "schema": 1,
            "data": {"files": {"train": path, "validation": path}, "text_columns": ["text"], "label_column": "label"},
            "student": {"model": str(student)},
            "stages": [{"name": "labels", "objectives": [{"labels": {}}]}],
        }
    )
    workload = load_workload(recipe)
    tokenizer = tiny_runs.tokenizer()
    made = make_student(recipe, workload, None, tokenizer)
    columns = workload.fit(made, "student")
    before = BertForSequenceClassification.from_pretrained(student)
    assert torch.equal(made.classifier.weight, before.classifier.weight)
    assert columns == ((1, 0) if names == ("good", "bad") else (0, 1))
    assert made.config.id2label == ({0: "good", 1: "bad"} if names == ("good", "bad") else {0: "bad", 1: "good"})


def test_numbers_on_one_side_alone_are_in_order(caplog: pytest.LogCaptureFixture) -> None:
    assert align_labels(model_of(("bad", "good")), "teacher", ("0", "1")) == (0, 1)
    assert align_labels(model_of(("LABEL_0", "LABEL_1")), "teacher", ("good", "bad")) == (0, 1)
    assert align_labels(model_of(("0", "1")), "student", ("bad", "good")) == (0, 1)
    assert caplog.text.count("are taken to be the task's in its order") == 3


def test_names_are_compared_without_case_and_must_be_the_same() -> None:
    assert align_labels(model_of(("CONTRADICTION", "ENTAILMENT")), "teacher", ("entailment", "contradiction")) == (
        1,
        0,
    )
    with pytest.raises(IncompatiblePair, match="they must be the same names"):
        align_labels(model_of(("good", "bad")), "teacher", ("good", "fine"))
