"""The `student` section of a recipe: each way to make a student, from the file to the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from hf_distill import students
from hf_distill.errors import IncompatiblePair, RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs import models
from hf_distill.runs.workloads import load_workload
from tests import tiny_runs


def recipe(folder: Path, student: dict[str, Any]) -> Recipe:
    return Recipe.from_dict(
        {
            "schema": 1,
            "task": "sst2",
            "dataset_dir": str(tiny_runs.write_sst2(folder / "data")),
            "teacher": {"model": str(folder / "teacher")},
            "student": student,
            "max_length": 16,
            "stages": [{"name": "distil", "objectives": [{"labels": {}}]}],
        },
        "test",
    )


def made(folder: Path, student: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The student of a recipe, and its teacher of four layers."""
    tiny_runs.save_teacher(folder / "teacher", layers=4, dropout=0.0)
    asked = recipe(folder, student)
    workload = load_workload(asked)
    teacher = models.load_teacher(asked, workload)
    return models.make_student(asked, workload, teacher, tiny_runs.tokenizer()), teacher


def same(left: PreTrainedModel, right: PreTrainedModel) -> bool:
    mine, theirs = left.state_dict(), right.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_distilbert(tmp_path):
    student, teacher = made(tmp_path, {"distilbert": {"layers": 2, "pick": "last", "token_types": "folded"}})
    assert type(student).__name__ == "DistilBertForSequenceClassification"
    assert same(student, students.as_distilbert(teacher, 2, "last", token_types="folded"))
    assert not same(student, students.as_distilbert(teacher, 2, "last"))
    assert student.config.id2label == {0: "negative", 1: "positive"}


def test_the_published_distilbert_takes_six_of_twelve_layers(tmp_path):
    with pytest.raises(IncompatiblePair, match="as_distilbert: 6 layers are asked for, but the teacher has 4"):
        made(tmp_path, {"distilbert": {}})


def test_a_random_shape(tmp_path):
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12}
    student, teacher = made(tmp_path, {"from_shape": sizes})
    again, _ = made(tmp_path / "again", {"from_shape": sizes})
    assert same(student, again)
    config = student.config
    assert (config.num_hidden_layers, config.hidden_size, config.intermediate_size) == (2, 8, 12)
    assert type(student) is type(teacher)


def test_importance_is_measured_on_the_first_training_rows(tmp_path):
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 12, "pick": "first"}
    student, teacher = made(tmp_path, {"from_shape": sizes | {"initialisation": "importance", "calibration_rows": 3}})
    texts = [row["sentence"] for row in tiny_runs.sst2_rows(24)]

    def by_hand(number: int) -> PreTrainedModel:
        inputs = dict(tiny_runs.tokenizer()(texts[:number], padding=True, return_tensors="pt"))
        return students.from_shape(teacher, initialisation="importance", calibration=[inputs], **sizes)

    assert same(student, by_hand(3))
    assert not same(student, by_hand(24))
    whole, _ = made(tmp_path / "whole", {"from_shape": sizes | {"initialisation": "importance"}})
    assert same(whole, by_hand(24))


@pytest.mark.parametrize(
    "section",
    [
        {"from_layers": {"layers": 2, "pick": "importance", "calibration_rows": 5}},
        {"from_layers": {"layers": 2, "pick": "loss_rise", "contiguous": True, "calibration_rows": 5}},
        {
            "from_shape": {
                "num_hidden_layers": 2, "hidden_size": 8, "initialisation": "importance", "calibration_rows": 5,
                "pick": "importance", "ranking": "activations", "over_tokens": "l2", "steps": 2,
            },
        },
    ],
)  # fmt: skip
def test_layers_and_widths_are_measured_on_the_first_training_rows(section, tmp_path):
    student, teacher = made(tmp_path, section)
    rows = tiny_runs.sst2_rows(24)[:5]
    inputs = dict(tiny_runs.tokenizer()([row["sentence"] for row in rows], padding=True, return_tensors="pt"))
    inputs["labels"] = torch.tensor([row["label"] for row in rows])
    ((maker, settings),) = section.items()
    given = {name: value for name, value in settings.items() if name != "calibration_rows"}
    assert same(student, getattr(students, maker)(teacher, calibration=[inputs], **given))


def test_what_was_measured_is_told(tmp_path):
    section = {"from_layers": {"layers": 3, "pick": "importance", "calibration_rows": 5}}
    tiny_runs.save_teacher(tmp_path / "teacher", layers=4, dropout=0.0)
    asked = recipe(tmp_path, section)
    workload = load_workload(asked)
    found = models.made_student(asked, workload, models.load_teacher(asked, workload), tiny_runs.tokenizer())
    assert found.cut is not None
    assert (found.cut.pick, found.cut.rows, found.cut.hidden) == ("importance", 5, [])
    scores = found.cut.scores["layers"]
    assert found.cut.layers == {"layers": [i for i in range(1, 5) if scores[i - 1] > min(scores)]}
    by_place = asked.override({"student": {"from_layers": {"layers": 3}}})
    teacher = models.load_teacher(by_place, workload)
    assert models.made_student(by_place, workload, teacher, tiny_runs.tokenizer()).cut is None


@pytest.mark.parametrize(
    ("student", "words"),
    [
        ({"from_layers": {"layers": 2, "calibration_rows": 3}}, "calibration_rows: goes with a pick that is measured"),
        ({"from_layers": {"layers": 2, "contiguous": True}}, "contiguous: goes with a pick that is measured"),
        ({"from_layers": {"layers": [1], "pick": "loss_rise"}}, "pick: is loss_rise, and layers are given one by one"),
        ({"from_layers": {"layers": 2, "pick": "importence"}}, "did you mean 'importance'"),
        ({"from_shape": {"pick": "importance"}}, "pick: is importance, which goes with initialisation: importance"),
        ({"from_shape": {"ranking": "activations"}}, "ranking: goes with initialisation: importance"),
        ({"from_shape": {"steps": 2}}, "steps: goes with initialisation: importance"),
        ({"from_shape": {"initialisation": "importance", "over_texts": "l2"}}, "over_texts: goes with ranking: act"),
        ({}, "exactly one of model, from_layers, distilbert, from_shape"),
        ({"distilbert": {}, "from_shape": {}}, "found distilbert and from_shape"),
        ({"distilbert": {"layers": 0}}, r"student\.distilbert\.layers.*greater than or equal to 1"),
        ({"distilbert": {"token_types": "fold"}}, r"student\.distilbert\.token_types.*did you mean 'folded'"),
        ({"from_shape": {"hidden_size": "wide"}}, r"student\.from_shape\.hidden_size.*given 'wide'"),
        ({"from_shape": {"hiden_size": 8}}, "did you mean 'hidden_size'"),
        ({"from_shape": {"initialisation": "importanc"}}, "did you mean 'importance'"),
        ({"from_shape": {"calibration_rows": 3}}, "calibration_rows: goes with initialisation: importance"),
        ({"from_shape": {}, "revision": "main"}, r"student\.revision: goes with model"),
    ],
)
def test_refused_sections(student, words, tmp_path):
    with pytest.raises(RecipeError, match=f"(?s){words}"):
        recipe(tmp_path, student)


def test_students_of_a_teacher_need_one(tmp_path):
    for name, taken in (("distilbert", "layers"), ("from_shape", "class and the vocabulary")):
        with pytest.raises(RecipeError, match=rf"student\.{name}: takes the {taken} of a teacher"):
            recipe(tmp_path, {name: {}}).override({"teacher": None})


def test_a_student_that_was_made_loads_by_name(tmp_path):
    student, _ = made(tmp_path, {"distilbert": {"layers": 2, "pick": "spread"}})
    student.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert same(loaded, student)
