"""What recipes may say of further labels, exemplars and adapters, and what not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from transformers import BertForSequenceClassification

from hf_distill.errors import IncompatiblePair, RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs import models
from hf_distill.runs.labels import align_labels, in_model_order, in_task_order
from hf_distill.runs.workloads.token_classification import TokenClassification
from hf_distill.tasks import IGNORED
from tests import tiny_runs

DATA = {
    "files": {"train": "a.jsonl", "validation": "b.jsonl"},
    "text_columns": ["text"],
    "label_column": "label",
    "label_names": ["a", "b", "c"],
}


def recipe(stage: dict[str, Any], **changes: Any) -> dict[str, Any]:
    made = {
        "schema": 1,
        "data": DATA,
        "teacher": {"adapter_off": {}},
        "student": {"model": "x"},
        "stages": [{"name": "adapt", "objectives": [{"labels": {}}], "lora": {}} | stage],
    }
    return {key: value for key, value in (made | changes).items() if value is not None}


def test_adapters_and_exemplars_survive_yaml() -> None:
    made = recipe(
        {"lora": {"r": 4, "alpha": 8.0, "target_modules": ["query"], "modules_to_save": ["classifier"]}},
        teacher={"adapter_off": {"base_has_head": True}},
        data=DATA | {"exemplars": "old.jsonl"},
    )
    found = Recipe.from_dict(made)
    assert Recipe.from_yaml(found.to_yaml()) == found
    assert found.stages[0].lora is not None
    assert (found.stages[0].lora.r, found.stages[0].lora.dropout) == (4, 0.0)
    assert found.data is not None
    assert found.data.exemplars == "old.jsonl"
    grown = recipe({"lora": None}, teacher={"model": "x"}, student={"grow_labels": {"names": ["c"]}})
    assert Recipe.from_dict(grown).student.grow_labels is not None


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        (
            {"lora": None, "objectives": [{"labels": {}}, {"soft_targets": {}}]},
            {},
            r"stages\[0\]\.lora: is missing: the teacher \(adapter_off\) is the student without",
        ),
        ({"train": [{"layers": [1]}]}, {}, r"stages\[0\]\.train: is about the weights, and those are at rest"),
        ({"quantize_uniform": {}}, {}, r"stages\[0\]\.quantize_uniform: is about the weights"),
        ({"lora": {"rank": 4}}, {}, r"stages\[0\]\.lora\.rank: unknown key"),
        ({"lora": {"r": 0}}, {}, r"stages\[0\]\.lora\.r: "),
        ({"lora": {"dropout": 1.0}}, {}, r"stages\[0\]\.lora\.dropout: must be less than 1"),
        ({"lora": {"target_modules": []}}, {}, r"lora\.target_modules: must have at least 1 entry"),
        ({}, {"teacher": {"adapter_off": {}, "cache": {}}}, r"teacher\.cache: does not go with adapter_off"),
        ({}, {"teacher": {"adapter_off": {}, "model": "x"}}, r"teacher: give exactly one of model, package"),
        ({}, {"student": {"grow_labels": {"names": ["c"]}}}, r"grow_labels: takes the weights and the labels of a"),
        ({}, {"student": {"grow_labels": {"names": []}}}, r"student\.grow_labels\.names: must have at least 1 entry"),
        ({}, {"student": {"grow_labels": {"names": ["c", "c"]}}}, r"student\.grow_labels\.names: "),
        ({"objectives": [{"labels": {"classes": "old"}}]}, {}, r"labels\.classes: labels: classes is 'old'"),
        (
            {},
            {"data": {"text": {"train": [{"files": ["x.txt"]}]}, "exemplars": "y.jsonl"}},
            r"data\.exemplars: goes with text_columns",
        ),
    ],
)
def test_mistakes(stage: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Recipe.from_dict(recipe(stage, **changes))


@pytest.mark.parametrize(
    ("first", "teacher", "expected"),
    [
        ({}, {"model": "x"}, True),
        ({"modules_to_save": ["classifier"]}, {"model": "x"}, False),
        ({"modules_to_save": ["classifier"]}, {"adapter_off": {}}, False),
        ({"modules_to_save": ["classifier"]}, {"adapter_off": {"base_has_head": True}}, True),
        (None, {"model": "x"}, False),
        (None, {"adapter_off": {}}, False),
    ],
)
def test_a_head_that_stays_as_it_is_must_have_been_trained(first: Any, teacher: Any, expected: bool) -> None:
    """A new head that rests while adapters train, or that teaches without them, would be random."""
    second = {"name": "more", "objectives": [{"labels": {}}], "lora": {}}
    made = recipe({"lora": first}, teacher=teacher)
    assert models._keeps_head(Recipe.from_dict(made | {"stages": [*made["stages"], second]})) is expected


def test_a_teacher_of_some_labels_is_read_by_their_names() -> None:
    """Its columns, the rows that it can answer, and its logits in the order of the task."""
    model = BertForSequenceClassification(tiny_runs.config(("Old_2", "old 1")))
    names = ("new", "old 1", "old-2")
    columns = align_labels(model, "teacher", names)
    assert columns == (-1, 1, 0)
    assert model.config.id2label == {0: "old-2", 1: "old 1"}
    rows = in_model_order(Dataset.from_dict({"labels": [0, 1, 2]}), columns)
    assert rows["labels"][:] == [IGNORED, 1, 0]
    tags = Dataset.from_dict({"labels": [[0, 1, IGNORED, 2], [2]]})
    workload = TokenClassification("words", data=None, settings=None)  # type: ignore[arg-type]
    assert workload.in_model_order(tags, columns)["labels"][:] == [[IGNORED, 1, IGNORED, 0], [0]]
    found = in_task_order(np.array([[1.0, 2.0]]), columns)
    assert found.tolist() == [[-np.inf, 2.0, 1.0]]
    for role, others in (("student", names), ("teacher", ("new", "old 1", "third"))):
        with pytest.raises(IncompatiblePair, match=f"the {role} has 2 labels"):
            align_labels(model, role, others)
