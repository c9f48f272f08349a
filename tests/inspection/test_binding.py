"""Stages on models without weights: what trains in each kind of stage, and what is drawn of its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForSequenceClassification

from hf_distill.inspection.binding import BoundStage, bound_stages
from hf_distill.inspection.blueprint import Blueprint
from hf_distill.inspection.drawing import drawn
from hf_distill.inspection.kinds import Kind
from hf_distill.inspection.parameters import Trained
from hf_distill.recipe import Recipe, shipped
from tests import tiny_runs


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher` and `other`, four layers each, and `base`, without weights."""
    home = tmp_path_factory.mktemp("binding")
    for folder in (
        tiny_runs.save_teacher(home / "teacher", layers=4),
        tiny_runs.save_teacher(home / "other", layers=4),
        tiny_runs.save_base(home / "base"),
    ):
        (folder / "model.safetensors").unlink()
    return home


def bound(home: Path, stage: dict[str, Any], **sections: Any) -> BoundStage:
    """The only stage of a recipe, bound."""
    made = {
        "schema": 1,
        "task": "sst2",
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 2}},
        **sections,
        "stages": [{"name": "one", "objectives": [{"soft_targets": {}}], **stage}],
    }
    (found,) = bound_stages(Blueprint(Recipe.from_dict(made)))
    assert found.all_problems == []
    return found


def numbers(layers: int = 2) -> tuple[int, int]:
    """Parameters of the whole student, and of its classifier."""
    model = AutoModelForSequenceClassification.from_config(tiny_runs.config(("a", "b"), layers=layers))
    return tuple(sum(p.numel() for p in part.parameters()) for part in (model, model.classifier))  # type: ignore[return-value]


def test_all_of_a_student_trains(home: Path) -> None:
    found = bound(home, {})
    assert found.student.device.type == "meta"
    assert Trained.of(found) == Trained(numbers()[0], numbers()[0], 0, 0, 0)


def test_what_no_term_reaches_is_told(home: Path) -> None:
    """Pooler and classifier lie behind the hidden states; the map to the teacher's width is learned beside."""
    whole, classifier = numbers()
    found = bound(home, {"objectives": [{"fitnets_hint": {"layer_map": "final"}}, {"crd": {"dimension": 4}}]})
    pooler = 16 * 16 + 16
    beside = 2 * (16 * 4 + 4)
    assert Trained.of(found) == Trained(whole, whole - classifier - pooler, 0, classifier + pooler, beside)


def test_the_head_alone(home: Path) -> None:
    whole, classifier = numbers()
    found = bound(home, {"train": [{"part": "head"}]})
    assert Trained.of(found) == Trained(whole, classifier, whole - classifier, 0, 0)


def test_adapters(home: Path) -> None:
    """Of rank 2 at queries and values, and the classifier beside its own frozen copy."""
    whole, classifier = numbers()
    found = bound(home, {"lora": {"r": 2, "modules_to_save": ["classifier"]}})
    adapters = 2 * 2 * 2 * (16 + 16)
    expected = Trained(whole + adapters + classifier, adapters + classifier, whole, 0, 0)
    assert Trained.of(found) == expected


def test_peers_are_learned_beside_the_student(home: Path) -> None:
    objectives = [{"labels": {}}, {"deep_mutual_learning": {}}]
    student = {"model": str(home / "base")}
    found = bound(home, {"objectives": objectives}, teacher={"peers": {"count": 2}}, student=student)
    whole, _ = numbers()
    assert Trained.of(found) == Trained(whole, whole, 0, 0, 2 * whole)


def test_several_teachers_and_the_one_that_a_term_names(home: Path) -> None:
    members = {name: {"model": str(home / name)} for name in ("teacher", "other")}
    objectives = [{"soft_targets": {}}, {"hidden_mse": {}, "on": "other"}]
    found = bound(home, {"objectives": objectives}, teacher={"ensemble": {"members": members}})
    assert [term.objective.pair.member for term, _ in found.terms] == ["", "other"]


def test_points_alone_train(home: Path) -> None:
    told = dict(Trained.of(bound(home, {"quantize_points": {}})).told())
    assert told == {"trained": "the points of the student's grids"}


def test_a_student_of_an_earlier_stage_teaches(home: Path) -> None:
    stages = [
        {"name": "assistant", "objectives": [{"soft_targets": {}}], "student": {"from_layers": {"layers": 3}}},
        {"name": "student", "objectives": [{"hidden_mse": {}}], "teacher": "assistant", "student": "fresh"},
    ]
    recipe = {
        "schema": 1,
        "task": "sst2",
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": stages,
    }
    found = list(bound_stages(Blueprint(Recipe.from_dict(recipe))))
    assert [stage.pair.teacher.stack().num_hidden_layers for stage in found] == [4, 3]  # type: ignore[union-attr]
    assert [stage.pair.student.stack().num_hidden_layers for stage in found] == [3, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "task", "labels"), [
    ("glue/sst2", "single_label", ("negative", "positive")), ("glue/stsb", "regression", ()),
    ("qa/squad", "question_answering", None), ("pretraining/distilbert", "masked_lm", None),
    ("pretraining/distilgpt2", "causal_lm", None), ("pretraining/minilm_6x384", "encoder", None),
    ("review/seq_kd", "seq2seq_lm", None), ("review/ctc_nbest_kd", "ctc", None),
])  # fmt: skip
def test_the_task_is_known_without_data(name: str, task: str, labels: tuple[str, ...] | None) -> None:
    assert name in shipped()
    kind = Kind.of(Recipe.load(name))
    assert (kind.name, kind.labels) == (task, labels)


def test_layers_are_drawn() -> None:
    assert drawn([(0, 0), (1, 2), (2, 2)], 3, 3) == [
        "  teacher       student",
        "    embed -----> embed",
        "        1",
        "        2 -----> 1, 2",
        "        3",
        "  of the student, 3 has no partner",
    ]
