"""Texts with any number of classes in a run: models, answers and what is found of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, LargeList, List, Value
from transformers import BertForSequenceClassification

from hf_distill.data import hub
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.evaluation.parting import found
from hf_distill.recipe import Recipe
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.text_classification import TextClassification
from hf_distill.search.held_out import hold_out, on_held_out
from tests import tiny_runs

MOODS = ("sad", "glad", "calm")
LISTS = [["sad", "calm"], [], ["glad"], ["calm"]]
ANSWERS = np.array([[2.0, -1.0, 0.5], [-1.0, -2.0, -0.1], [1.0, 1.0, -3.0], [-1.0, -1.0, -1.0]])
"""By hand: 3 classes are right, 4 are said, 4 are true; the first two rows are right whole."""
F1 = 2 * 3 / (4 + 4)


def recipe(**data: Any) -> Recipe:
    return Recipe.from_dict(
        {
            "schema": 1,
            "data": {"text_columns": ["text"], "label_column": "moods", **data},
            "teacher": {"model": "teacher", "fine_tune": {"arguments": {"max_steps": 1}}},
            "student": {"from_layers": {"layers": 1}},
            "stages": [{"name": "distil", "objectives": [{"soft_targets": {}}]}],
        }
    )


def written(folder: Path, lists: list[Any] = LISTS, **data: Any) -> Recipe:
    rows = [{"text": f"text {i}", "moods": moods} for i, moods in enumerate(lists)]
    path = str(tiny_runs.write_jsonl(folder / "rows.jsonl", rows))
    return recipe(files={"train": path, "validation": path}, label_names=list(MOODS), **data)


def loaded(made: Recipe) -> TextClassification:
    workload = load_workload(made)
    assert isinstance(workload, TextClassification)
    return workload


def model_of(names: tuple[str, ...] = MOODS, problem_type: str | None = None) -> BertForSequenceClassification:
    config = tiny_runs.config(names)
    config.problem_type = problem_type
    return BertForSequenceClassification(config)


def test_answers_are_judged_by_the_classes_of_all_rows(tmp_path: Path) -> None:
    workload = loaded(written(tmp_path))
    scores = workload.score("validation", ANSWERS)
    per_class = [2 * 1 / (2 + 1), 2 * 1 / (1 + 1), 2 * 1 / (1 + 2)]  # sad is said twice, calm once of two
    assert workload.metrics == ("f1_micro", "f1_macro", "subset_accuracy")
    assert scores["f1_micro"] == pytest.approx(F1)
    assert scores["f1_macro"] == pytest.approx(sum(per_class) / 3)
    assert scores["subset_accuracy"] == 0.5
    evidence = workload.evidence("validation", ANSWERS)
    assert evidence.rows.tolist() == [[2, 2, 2], [0, 0, 0], [1, 2, 1], [0, 0, 1]]
    assert evidence.value() == pytest.approx(F1)
    low, high = workload.interval("validation", ANSWERS) or (1.0, 0.0)
    assert 0.0 <= low <= F1 <= high <= 1.0


def test_two_models_agree_on_rows_whose_classes_are_the_same(tmp_path: Path) -> None:
    workload = loaded(written(tmp_path))
    others = ANSWERS.copy()
    others[0, 2], others[1] = -0.5, [-9.0, -9.0, -9.0]
    assert workload.agreement("validation", ANSWERS, others) == 0.75
    assert "f1_micro +0.750, 95 % [" in workload.lead("validation", ANSWERS, np.full((4, 3), -1.0))
    assert "f1_micro -0.750, 95 % [" in workload.lead("validation", np.full((4, 3), -1.0), ANSWERS)
    assert workload.calibration_error("validation", ANSWERS) is None
    assert workload.accuracy_among("validation", ANSWERS, [0, 1]) is None


def test_answers_are_shown_in_words(tmp_path: Path) -> None:
    workload = loaded(written(tmp_path))
    asked = workload.asked("validation")
    assert asked is not None
    shown = found(
        asked,
        {
            "teacher": workload.answered("validation", ANSWERS),
            "student": workload.answered("validation", np.full((4, 3), -1.0)),
        },
    )
    assert shown.parting is not None
    assert (shown.parting.both, shown.parting.only_teacher, shown.parting.neither_apart) == (1, 1, 1)
    first = shown.examples[0]
    assert (first.text, first.truth, first.teacher, first.student) == ("text 0", "sad, calm", "sad, calm", "none")
    name, text = workload.predictions("validation", ANSWERS)
    assert name == "predict_results_validation.txt"
    lines = [line.split("\t") for line in text.splitlines()]
    assert [json.loads(line[1]) for line in lines[1:]] == [["sad", "calm"], [], ["sad", "glad"], []]


def test_answers_are_the_same_by_their_classes_and_not_by_the_words(tmp_path: Path) -> None:
    """One class is called as two others are written, and one as none is."""
    names = ["a", "b", "a, b", "none"]
    rows = [{"text": f"text {i}", "moods": moods} for i, moods in enumerate([["a, b"], ["none"]])]
    path = str(tiny_runs.write_jsonl(tmp_path / "rows.jsonl", rows))
    workload = loaded(recipe(files={"train": path, "validation": path}, label_names=names))
    right = workload.answered("validation", np.array([[-1.0, -1.0, 1.0, -1.0], [-1.0, -1.0, -1.0, 1.0]]))
    wrong = workload.answered("validation", np.array([[1.0, 1.0, -1.0, -1.0], [-1.0, -1.0, -1.0, -1.0]]))
    assert [right.in_words(0), right.in_words(1)] == [wrong.in_words(0), wrong.in_words(1)] == ["a, b", "none"]
    assert (right.said == wrong.said).tolist() == [False, False]
    assert right.right is not None
    assert wrong.right is not None
    assert (right.right.tolist(), wrong.right.tolist()) == ([True, True], [False, False])


def test_labels_follow_the_order_of_a_model(tmp_path: Path) -> None:
    workload = loaded(written(tmp_path))
    columns = workload.fit(model_of(("calm", "sad", "glad")), "student")
    assert columns == (1, 2, 0)
    rows = Dataset.from_dict({"labels": workload.splits["train"]["label"][:]})
    moved = workload.in_model_order(rows, columns)["labels"][:]
    assert moved == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    same = (0, 1, 2)
    assert workload.in_model_order(rows, same) is rows


def test_a_teacher_of_some_of_the_classes_learns_of_these_alone(tmp_path: Path) -> None:
    workload = loaded(written(tmp_path))
    columns = workload.fit(model_of(("calm", "sad")), "teacher")
    assert columns == (1, -1, 0)
    rows = Dataset.from_dict({"labels": workload.splits["train"]["label"][:]})
    assert workload.in_model_order(rows, columns)["labels"][:] == [[1.0, 1.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]


def test_a_model_must_have_been_trained_for_several_classes(tmp_path: Path) -> None:
    workload = loaded(written(tmp_path))
    model = model_of()
    workload.fit(model, "teacher")
    assert model.config.problem_type == "multi_label_classification"
    with pytest.raises(IncompatiblePair, match=r"task of the teacher is single_label .* that of the rows multi_label"):
        workload.fit(model_of(problem_type="single_label_classification"), "teacher")
    single = loaded(written(tmp_path, ["sad", "glad", "calm", "sad"]))
    assert (single.data.kind, single.metrics) == ("single_label", ("accuracy",))
    with pytest.raises(IncompatiblePair, match=r"task of the student is multi_label .* that of the rows single_label"):
        single.fit(model_of(problem_type="multi_label_classification"), "student")
    assert single.fit(model_of(), "student") == (0, 1, 2)


def test_new_heads_are_of_their_task_whatever_the_checkpoint_was_for(tmp_path: Path) -> None:
    several, single = loaded(written(tmp_path)), loaded(written(tmp_path, ["sad", "glad", "calm", "sad"]))
    assert several.head()["problem_type"] == "multi_label_classification"
    assert single.head()["problem_type"] is None


@pytest.mark.parametrize("kind", [List, LargeList])
def test_lists_of_classes_of_the_hub(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    features = Features({"text": Value("string"), "moods": kind(ClassLabel(names=list(MOODS)))})

    def part(*lists: list[int]) -> Dataset:
        columns = {"text": [f"text {i}" for i in range(len(lists))], "moods": list(lists)}
        return Dataset.from_dict(columns, features=features)

    splits = DatasetDict({"train": part([0, 2], [1]), "validation": part([2], []), "test": part([-1], [])})
    monkeypatch.setattr(hub, "download", lambda *names: (splits, None))
    workload = loaded(recipe(hub={"id": "me/moods"}))
    assert workload.data.label_names == MOODS
    assert workload.splits["train"]["label"][:] == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    assert workload.splits["validation"]["label"][:] == [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    assert workload.splits["test"].column_names == ["text"]
    renamed = loaded(recipe(hub={"id": "me/moods"}, label_names=["DOWN", "UP", "STILL"]))
    assert renamed.data.label_names == ("DOWN", "UP", "STILL")
    assert renamed.splits["train"]["label"][:] == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_trials_read_lists_of_names(tmp_path: Path) -> None:
    made = written(tmp_path, [[*MOODS[: i % 4]] for i in range(40)])
    workload = loaded(made)
    trial = loaded(on_held_out(made, hold_out(workload, tmp_path / "held"), 20))
    assert (trial.data.kind, trial.data.label_names, trial.sizes) == (
        "multi_label",
        MOODS,
        {"train": 20, "validation": 4},
    )
    labels = dict(zip(workload.splits["train"]["text"][:], workload.splits["train"]["label"][:], strict=True))
    for rows in trial.splits.values():
        for text, label in zip(rows["text"][:], rows["label"][:], strict=True):
            assert label == labels[text]


def test_exemplars_and_scores_are_refused(tmp_path: Path) -> None:
    rows = tiny_runs.write_jsonl(tmp_path / "old.jsonl", [{"text": "old", "moods": ["sad"]}])
    with pytest.raises(DataError, match="exemplars stand for one class each"):
        loaded(written(tmp_path, exemplars=str(rows)))
    path = str(tmp_path / "rows.jsonl")
    with pytest.raises(DataError, match="holds words or lists, and --regression"):
        loaded(recipe(files={"train": path, "validation": path}, regression=True))
