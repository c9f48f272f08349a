"""Texts with a label, from a data set of the Hub."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_distill.data import hub
from hf_distill.errors import DataError
from hf_distill.recipe import Recipe
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.text_classification import TextClassification

MOODS = ["sad", "glad", "cross"]
"""In the order of their ids, which is not that of the alphabet."""


def split(labels: list[Any], feature: Any = None) -> Dataset:
    features = Features({"body": Value("string"), "mood": feature or ClassLabel(names=MOODS), "id": Value("int64")})
    columns = {"body": [f"text {i}" for i in range(len(labels))], "mood": labels, "id": list(range(len(labels)))}
    return Dataset.from_dict(columns, features=features)


def recipe(**data: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "schema": 1,
            "data": {"hub": {"id": "me/moods"}, "text_columns": ["body"], "label_column": "mood", **data},
            "teacher": {"model": "teacher", "fine_tune": {"arguments": {"max_steps": 1}}},
            "student": {"from_layers": {"layers": 1}},
            "stages": [{"name": "distil", "objectives": [{"soft_targets": {}}]}],
        }
    )


@pytest.fixture
def hub_of(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the Hub has, as the first element, and behind it what it was asked for."""
    asked: list[Any] = []

    def download(*names: Any) -> tuple[DatasetDict, str | None]:
        asked.append(names)
        return DatasetDict(asked[0]), None

    monkeypatch.setattr(hub, "download", download)
    return asked


def loaded(made: Recipe) -> TextClassification:
    found = load_workload(made)
    assert isinstance(found, TextClassification)
    return found


def test_classes_of_the_hub_keep_their_names_and_their_order(hub_of: list[Any]) -> None:
    hub_of.append({"train": split([2, 0, 1, 0]), "validation": split([1]), "test": split([-1, -1])})
    made = recipe(hub={"id": "me/moods", "config": "all", "revision": "v1"})
    found = loaded(made)
    assert hub_of[1] == ("me/moods", "all", "v1")
    assert found.data.label_names == tuple(MOODS)
    assert found.splits["train"].to_dict() == {"body": [f"text {i}" for i in range(4)], "label": [2, 0, 1, 0]}
    assert found.splits["validation"]["label"][:] == [1]
    assert found.splits["test"].column_names == ["body"]  # its labels are kept secret
    facts = found.facts(made)
    assert (facts.id, facts.config, facts.revision, facts.name) == ("me/moods", "all", "v1", "me/moods")
    assert set(facts.sources) == {"train", "validation", "test"}


WORDS = Dataset.from_dict({"body": [f"text {i}" for i in range(6)], "mood": [0.0, 1.0, 2.5, 2.0, 4.0, 3.5]})


def test_a_correlation_has_an_interval_and_a_lead(hub_of: list[Any]) -> None:
    """Of Pearson's, for which no formula is asked."""
    hub_of.append({"train": WORDS, "validation": WORDS})
    found = loaded(recipe())
    truth = np.asarray(WORDS["mood"][:], dtype=np.float32)[:, None]
    near = truth + np.asarray([0.3, -0.2, 0.4, -0.1, 0.2, -0.3], dtype=np.float32)[:, None]
    low, high = found.interval("validation", near) or (2.0, -2.0)
    value = np.corrcoef(near[:, 0], truth[:, 0])[0, 1]
    assert found.metrics[0] == "pearson"
    assert low < value < high <= 1.0
    assert found.lead("validation", truth, -truth).startswith("Student against control: pearson +2.000, 95 % [")
    assert found.lead("validation", near, near).endswith(
        "pearson +0.000, 95 % [+0.000, +0.000] (bootstrap over rows)."
    )


def test_an_accuracy_has_a_paired_difference_beside_its_test(hub_of: list[Any]) -> None:
    """Of ten rows the student is right in nine, the control in five of these; 2 * 0.5^4 of four that differ."""
    hub_of.append({"train": split([0, 1, 2] * 4), "validation": split([0] * 10)})
    found = loaded(recipe())
    right, wrong = np.asarray([1.0, 0.0, 0.0]), np.asarray([0.0, 1.0, 0.0])
    student, control = (np.stack([right] * n + [wrong] * (10 - n)) for n in (9, 5))
    told = found.lead("validation", student, control)
    assert told.startswith("Student against control: accuracy +0.400, 95 % [+0.100, +0.700] (bootstrap over rows).")
    assert told.endswith("Row by row, p = 0.12 (McNemar).")


def test_a_validation_split_is_cut_where_there_is_none(hub_of: list[Any]) -> None:
    hub_of.append({"train": split([0, 1, 2, 1] * 5)})
    found = loaded(recipe(split={"validation": 0.2}))
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 16, "validation": 4}
    with pytest.raises(DataError, match="the data has no validation split"):
        loaded(recipe())


def test_names_that_are_given_are_other_names_or_another_order(hub_of: list[Any]) -> None:
    hub_of.append({"train": split([0, 1, 2]), "validation": split([1])})
    renamed = loaded(recipe(label_names=["DOWN", "UP", "ANGRY"]))
    assert renamed.data.label_names == ("DOWN", "UP", "ANGRY")
    assert renamed.splits["train"]["label"][:] == [0, 1, 2]
    moved = loaded(recipe(label_names=["glad", "cross", "sad"]))
    assert moved.splits["train"]["label"][:] == [2, 0, 1]
    with pytest.raises(DataError, match=r"me/moods/train, row 1, column 'mood': unknown label 'sad'.*happy"):
        loaded(recipe(label_names=["happy", "glad", "cross"]))


def test_numbers_without_names_are_classes_or_scores(hub_of: list[Any]) -> None:
    hub_of.append({"train": split([0, 1, 0], Value("int64")), "validation": split([1], Value("int64"))})
    assert loaded(recipe()).data.label_names == ("0", "1")
    hub_of[0] = {"train": split([0.5, 1.0], Value("float32")), "validation": split([2.0], Value("float32"))}
    found = loaded(recipe())
    assert found.data.kind == "regression"
    assert found.splits["train"]["label"][:] == [0.5, 1.0]


def test_rows_are_chosen_by_their_cells(hub_of: list[Any]) -> None:
    hub_of.append({"train": split([0, 1, 0]), "validation": split([1, 0])})
    chosen = loaded(recipe(where={"mood": "sad"}, label_names=MOODS))
    assert chosen.sizes == {"train": 2, "validation": 1}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"text_columns": ["text"]}, r"me/moods/train: no column 'text'; known: body, id, mood"),
        ({"label_column": "label"}, r"no column 'label'"),
        ({"text_columns": ["id"]}, r"me/moods/train, row 1, column 'id': holds 0 .int., expected text"),
    ],
)
def test_what_the_hub_lacks_is_told(hub_of: list[Any], data: dict[str, Any], words: str) -> None:
    hub_of.append({"train": split([0, 1]), "validation": split([1])})
    with pytest.raises(DataError, match=words):
        loaded(recipe(**data))


def test_rows_without_a_class_are_left_out_and_counted(hub_of: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """SNLI's own have -1 where its annotators did not agree."""
    hub_of.append({"train": split([0, -1, 2, 1]), "validation": split([1, -1]), "test": split([-1, 2])})
    with caplog.at_level(logging.WARNING, logger="hf_distill"):
        found = loaded(recipe())
    assert found.splits["train"].to_dict() == {"body": ["text 0", "text 2", "text 3"], "label": [0, 2, 1]}
    assert found.sizes == {"train": 3, "validation": 1, "test": 1}
    assert "me/moods/train: 1 of 4 rows have no class, and are left out" in caplog.text
    hub_of[0] = {"train": split([-1, -1]), "validation": split([1])}
    with pytest.raises(DataError, match="me/moods/train: no row has a class in column 'mood'"):
        loaded(recipe())


def test_a_test_of_numbers_that_are_kept_secret_has_no_labels(hub_of: list[Any]) -> None:
    number = Value("int64")
    hub_of.append({"train": split([0, 1], number), "validation": split([1], number), "test": split([-1, -1], number)})
    assert loaded(recipe()).splits["test"].column_names == ["body"]
    hub_of[0] = hub_of[0] | {"train": split([-1, 1], number)}
    assert loaded(recipe()).splits["test"]["label"][:] == [0, 0]


@pytest.mark.parametrize("column", ["mood", "text"])
def test_rows_are_chosen_by_labels_where_they_are_known(hub_of: list[Any], column: str) -> None:
    """The test has secret ones, or none."""
    test = split([-1, -1])
    test = test if column == "mood" else test.remove_columns("mood")
    hub_of.append({"train": split([0, 1, 0]), "validation": split([1, 0]), "test": test})
    chosen = loaded(recipe(where={"mood": "sad"}, label_names=MOODS))
    assert chosen.sizes == {"train": 2, "validation": 1, "test": 2}


def test_a_column_that_is_no_text_is_told(hub_of: list[Any]) -> None:
    rows = Dataset.from_dict({"body": [datetime.datetime(2020, 1, 1)], "mood": [1]})
    hub_of.append({"train": rows, "validation": rows})
    with pytest.raises(DataError, match=r"row 1, column 'body': holds .*datetime.*, expected text"):
        loaded(recipe())


def test_a_folder_is_no_data_set_of_the_hub(tmp_path: Path) -> None:
    """It was trained on, and then its record could not be written."""
    (tmp_path / "train.csv").write_text("body,mood\na,x\nb,y\n")
    with pytest.raises(DataError, match=r"is a folder or a file here.* give its files"):
        loaded(recipe(hub={"id": str(tmp_path)}))


def test_a_data_set_that_brings_code_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(*names: Any) -> None:
        raise RuntimeError("Dataset scripts are no longer supported, but found moods.py")

    monkeypatch.setattr(hub, "download", download)
    with pytest.raises(DataError, match=r"me/moods.* could not be loaded: Dataset scripts are no longer supported"):
        loaded(recipe())


def test_data_of_ones_own_called_mnli_have_no_diagnostics(hub_of: list[Any]) -> None:
    hub_of.append({"train": split([0, 1]), "validation": split([1])})
    made = recipe(hub={"id": "mnli"})
    assert loaded(made).name == "mnli"
    assert list(loaded(made).companions(made)) == []
