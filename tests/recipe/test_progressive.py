"""A stage that stands for one a layer: what it is read as, and its faults on the lines where they were written."""

from __future__ import annotations

import re
from typing import Any

import pytest

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe, TrainGroup

TRANSFER = """\
schema: 1
task: sst2
teacher: {model: some/ib-bert}
student: {mobilebert: {num_hidden_layers: 3}}
stages:
  - name: transfer
    progressive: {layers: 3}
    objectives:
      - {hidden_mse: {projection: none}, weight: 2.0, name: features}
      - {hidden_cosine: {}}
    arguments:
      num_train_epochs: 2
  - name: distil
    objectives:
      - {soft_targets: {}}
"""


def recipe(old: str = "", new: str = "") -> Recipe:
    assert not old or TRANSFER.count(old) == 1
    return Recipe.from_yaml(TRANSFER.replace(old, new) if old else TRANSFER)


def trained(stage: Any) -> list[tuple[list[int], float]]:
    return [(group.layers, group.learning_rate_scale) for group in stage.train]


def test_it_is_read_as_a_stage_for_each_layer() -> None:
    found = recipe()
    assert [stage.name for stage in found.stages] == ["transfer-01", "transfer-02", "transfer-03", "distil"]
    for layer, stage in enumerate(found.stages[:3], start=1):
        features, cosine = stage.objectives
        assert (features.objective, features.weight, features.name) == ("hidden_mse", 2.0, "features")
        assert features.settings == {"projection": "none", "layer_map": [[layer, layer]]}
        assert cosine.settings == {"layer_map": [[layer, layer]]}
        assert stage.arguments == {"num_train_epochs": 2}
        assert stage.terms()[0].objective.settings()["layer_map"] == [[layer, layer]]
    assert [trained(stage) for stage in found.stages[:3]] == [
        [([0, 1], 1.0)],
        [([2], 1.0), ([0, 1], 0.1)],
        [([3], 1.0), ([0, 1, 2], 0.1)],
    ]
    assert (found.stages[3].train, found.stages[3].objectives[0].settings) == ("all", {})


def test_the_layers_below_may_be_frozen_or_train_at_another_rate() -> None:
    frozen = recipe("{layers: 3}", "{layers: 3, below: frozen}")
    assert [trained(stage) for stage in frozen.stages[:3]] == [[([0, 1], 1.0)], [([2], 1.0)], [([3], 1.0)]]
    slow = recipe("{layers: 3}", '{layers: 3, below: "0.25"}')
    assert trained(slow.stages[1]) == [([2], 1.0), ([0, 1], 0.25)]


def test_a_deeper_teacher_gives_its_layers_one_by_one() -> None:
    found = recipe("{layers: 3}", "{layers: 3, teacher_layers: [4, 8, 12]}")
    maps = [stage.objectives[1].settings["layer_map"] for stage in found.stages[:3]]
    assert maps == [[[1, 4]], [[2, 8]], [[3, 12]]]


def test_numbers_have_as_many_digits_as_the_last() -> None:
    names = [stage.name for stage in recipe("{layers: 3}", "{layers: 100}").stages]
    assert (names[0], names[9], names[99]) == ("transfer-001", "transfer-010", "transfer-100")


def test_the_recipe_of_mobilebert_transfers_block_by_block_and_then_distils() -> None:
    found = Recipe.load("pretraining/mobilebert")
    assert [stage.name for stage in found.stages[22:]] == ["transfer-23", "transfer-24", "distil"]
    terms = [(term.name, term.weight, term.objective.settings()["layer_map"]) for term in found.stages[23].terms()]
    assert terms == [("feature_map_transfer", 1.0, [[24, 24]]), ("attention_kl", 1.0, [[24, 24]])]
    assert trained(found.stages[23]) == [([24], 1.0), (list(range(24)), 0.1)]
    assert (found.stages[24].train, found.stages[24].terms()[0].name) == ("all", "pretraining_distillation")


def test_plain_stages_are_what_is_written_down() -> None:
    found = recipe()
    written = found.to_dict()
    assert len(written["stages"]) == 4
    assert "progressive" not in found.to_yaml()
    assert written["stages"][1] == {
        "name": "transfer-02",
        "rows": "original",
        "targets": "reference",
        "objectives": [
            {"hidden_mse": {"projection": "none", "layer_map": [[2, 2]]}, "weight": 2.0, "name": "features"},
            {"hidden_cosine": {"layer_map": [[2, 2]]}, "weight": 1.0},
        ],
        "train": [
            {"layers": [2], "learning_rate_scale": 1.0},
            {"layers": [0, 1], "learning_rate_scale": 0.1},
        ],
        "arguments": {"num_train_epochs": 2},
    }
    assert Recipe.from_dict(written) == found == Recipe.from_yaml(found.to_yaml())


def test_a_stage_of_a_layer_is_overridden_by_its_name() -> None:
    found = recipe().override({"stages.transfer-02.arguments.num_train_epochs": 5, "stages.distil.name": "last"})
    assert [stage.arguments.get("num_train_epochs") for stage in found.stages] == [2, 5, 2, None]
    assert found.stages[3].name == "last"
    again = recipe().override({"stages.distil.progressive": None, "seed": 3})
    assert len(again.stages) == 4


def test_an_override_may_make_a_stage_progressive() -> None:
    changes = {"stages.distil.objectives": [{"hidden_mse": {}}], "stages.distil.progressive": {"layers": 2}}
    found = recipe().override(changes)
    assert [stage.name for stage in found.stages][3:] == ["distil-01", "distil-02"]
    with pytest.raises(RecipeError, match=r"override 'stages\.4\.objectives', stages\[4\]\.objectives\[0\]"):
        found.override({"stages.4.objectives": [{"hidden_mse": {"layer_mapp": 3}}]})


@pytest.mark.parametrize(
    ("old", "new", "line", "path", "words"),
    [
        ("{layers: 3}", "{layer: 3}", 7, "stages[0].progressive.layer", "did you mean 'layers'?"),
        ("{layers: 3}", "{below: frozen}", 7, "stages[0].progressive.layers", "is missing"),
        ("{layers: 3}", "{layers: 0}", 7, "stages[0].progressive.layers", "greater than or equal to 1"),
        ("{layers: 3}", "{layers: 101}", 7, "stages[0].progressive.layers", "less than or equal to 100"),
        ("{layers: 3}", "{layers: 9000000000}", 7, "stages[0].progressive.layers", "less than or equal to 100"),
        ("{layers: 3}", "{layers: 3, below: cold}", 7, "stages[0].progressive.below", "given 'cold'"),
        ("{layers: 3}", "{layers: 3, below: [1]}", 7, "stages[0].progressive.below", "frozen, or a share"),
        ("{layers: 3}", "{layers: 3, below: 0}", 7, "stages[0].progressive.below", "greater than 0"),
        ("{layers: 3}", "3", 7, "stages[0].progressive", "must be a mapping; given 3"),
        (
            "{layers: 3}",
            "{layers: 3, teacher_layers: [1, 2]}",
            7,
            "stages[0].progressive.teacher_layers",
            "names 2 layers of the teacher for 3 of the student",
        ),
        ("    arguments:\n", "    train: all\n    argument:\n", 12, "stages[0].argument", "did you mean 'arguments'?"),
        (
            "    arguments:\n",
            "    train: [{parameters: x}]\n    arguments:\n",
            11,
            "stages[0].train",
            "follows from progressive",
        ),
        (
            "{hidden_cosine: {}}",
            "{hidden_cosine: {layer_map: final}}",
            10,
            "stages[0].objectives[1].hidden_cosine.layer_map",
            "follows from progressive",
        ),
        ("{hidden_cosine: {}}", "{labels: {}}", 10, "stages[0].objectives[1].labels", "has no layer_map"),
        ("name: transfer", f"name: {'t' * 62}", 6, "stages[0].name", "65 characters are more than 64"),
        ("name: distil", "name: Transfer-02", 13, "stages[1].name", "2 stages are named 'Transfer-02'"),
        ("soft_targets: {}", "soft_targets: {heat: 2}", 15, "stages[1].objectives[0].soft_targets.heat", "'heat'"),
    ],
)
def test_faults_are_told_where_they_were_written(old: str, new: str, line: int, path: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe(old, new)
    told = [text for text in str(caught.value).splitlines() if words in text]
    assert len(told) == 1, str(caught.value)
    assert re.search(rf"line {line}, {re.escape(path)}: ", told[0]), told[0]


def test_what_a_stage_lacks_is_told_once() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe("teacher: {model: some/ib-bert}\n", "")
    assert str(caught.value).count("hidden_mse: compares with a teacher") == 1
    assert "line 3, student.mobilebert: takes the vocabulary and the labels of a teacher" in str(caught.value)


def test_more_than_a_recipe_can_hold_is_refused() -> None:
    """A hundred stages of many arguments could be written down, but not read again."""
    where = ", ".join(f'"{name}"' for name in "abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz")
    with pytest.raises(RecipeError, match=r"line 5, stages: with a stage for each layer: more than 10000 keys"):
        Recipe.from_yaml(
            TRANSFER.replace("{layers: 3}", "{layers: 100}").replace(
                "num_train_epochs: 2", f"num_train_epochs: 2\n      label_names: [{where}]"
            )
        )


@pytest.mark.parametrize(
    ("group", "words"),
    [
        ("{learning_rate_scale: 0.1}", "exactly one of parameters, layers and part; found none"),
        ("{parameters: x, layers: [1]}", "exactly one of parameters, layers and part; found parameters and layers"),
        ("{part: head, layers: [1]}", "exactly one of parameters, layers and part; found layers and part"),
    ],
)
def test_a_group_names_its_parameters_one_way(group: str, words: str) -> None:
    with pytest.raises(RecipeError, match=rf"line 14, stages\[1\]\.train\[0\]: give {words}"):
        recipe("  - name: distil\n", f"  - name: distil\n    train: [{group}]\n")


@pytest.mark.parametrize("layers", ["[]", "[-1]", "[1, 1]", "[one]", "3"])
def test_layers_of_a_group_are_a_list_of_numbers(layers: str) -> None:
    with pytest.raises(RecipeError, match=r"line 14, stages\[1\]\.train\[0\]\.layers"):
        recipe("  - name: distil\n", f"  - name: distil\n    train: [{{layers: {layers}}}]\n")


def test_layers_of_a_group_give_what_is_written() -> None:
    found = recipe("  - name: distil\n", "  - name: distil\n    train: [{layers: [0, 2]}]\n")
    assert found.stages[3].train == [TrainGroup(layers=[0, 2])]
