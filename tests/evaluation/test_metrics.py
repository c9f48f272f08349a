"""The metrics of GLUE and of one's own tasks."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score
from transformers import EvalPrediction

from hf_distill.data import glue
from hf_distill.data.labels import LabelKind
from hf_distill.errors import DataError, NonFiniteLoss
from hf_distill.evaluation.metrics import CONFIGURATIONS, GlueMetric, compute_metrics_for, multi_label_metrics

REFERENCES = [1, 1, 1, 0, 0, 1, 0, 1]
PREDICTIONS = [1, 1, 0, 0, 1, 1, 0, 1]
# True positives 4, false positives 1, false negatives 1, true negatives 2.
ACCURACY = 6 / 8
F1 = 2 * 4 / (2 * 4 + 1 + 1)
MATTHEWS = (4 * 2 - 1 * 1) / ((4 + 1) * (4 + 1) * (2 + 1) * (2 + 1)) ** 0.5

SCORES = [0.0, 1.5, 3.0, 5.0, 2.5]
GUESSES = [0.5, 1.0, 4.0, 3.5, 2.0]


def correlation(x: Any, y: Any) -> float:
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / np.sqrt((x * x).sum() * (y * y).sum()))


PEARSON = correlation(SCORES, GUESSES)
SPEARMAN = correlation([1, 2, 4, 5, 3], [1, 2, 5, 4, 3])

EXPECTED = {
    **{
        name: {"accuracy": ACCURACY}
        for name in ("sst2", "mnli", "mnli_matched", "mnli_mismatched", "qnli", "rte", "wnli", "hans")
    },
    "cola": {"matthews_correlation": MATTHEWS},
    "mrpc": {"accuracy": ACCURACY, "f1": F1},
    "qqp": {"accuracy": ACCURACY, "f1": F1},
}


def test_the_configurations_are_those_of_evaluate() -> None:
    assert set(CONFIGURATIONS) == {*EXPECTED, "stsb"}


@pytest.mark.parametrize("name", EXPECTED)
def test_classes(name: str) -> None:
    metric = GlueMetric(name)
    assert metric.compute(predictions=PREDICTIONS, references=REFERENCES) == pytest.approx(EXPECTED[name], abs=1e-12)
    assert isinstance(metric, evaluate.Metric)
    assert {feature.dtype for feature in metric.features.values()} == {"int64"}


def test_scores_are_computed_in_float32() -> None:
    metric = GlueMetric("stsb")
    assert {feature.dtype for feature in metric.features.values()} == {"float32"}
    found = metric.compute(predictions=GUESSES, references=SCORES)
    assert found == pytest.approx({"pearson": PEARSON, "spearmanr": SPEARMAN}, abs=1e-6)


def test_batches_add_up_and_a_metric_can_be_used_again() -> None:
    metric = GlueMetric("mrpc")
    for _ in range(2):
        metric.add_batch(predictions=PREDICTIONS[:3], references=REFERENCES[:3])
        metric.add_batch(predictions=PREDICTIONS[3:], references=REFERENCES[3:])
        assert metric.compute() == pytest.approx({"accuracy": ACCURACY, "f1": F1})


def test_two_metrics_of_one_name_do_not_meet() -> None:
    first, second = GlueMetric("sst2"), GlueMetric("sst2")
    first.add_batch(predictions=[1, 1], references=[1, 1])
    second.add_batch(predictions=[1, 1], references=[0, 0])
    assert first.compute() == {"accuracy": 1.0}
    assert second.compute() == {"accuracy": 0.0}


def test_nothing_is_written_to_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "file, not a folder"
    home.touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(home / "metrics"))
    monkeypatch.chdir(tmp_path)
    assert GlueMetric("sst2").compute(predictions=[1], references=[1]) == {"accuracy": 1.0}
    assert os.listdir(tmp_path) == [home.name]


def test_a_file_glue_py_in_the_working_folder_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "glue").mkdir()
    (tmp_path / "glue" / "glue.py").write_text("raise RuntimeError('run')")
    monkeypatch.chdir(tmp_path)
    assert compute_metrics_for("sst2")(EvalPrediction(np.eye(2), np.array([0, 1]))) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("name", "predictions", "references", "expected"),
    [
        ("cola", [1, 1, 1], [1, 0, 1], {"matthews_correlation": 0.0}),
        ("cola", [0, 0], [0, 0], {"matthews_correlation": 0.0}),
        ("mrpc", [0, 0], [0, 0], {"accuracy": 1.0, "f1": 0.0}),
        ("mrpc", [0, 0], [1, 1], {"accuracy": 0.0, "f1": 0.0}),
        ("stsb", [2.0, 2.0, 2.0], [0.0, 1.0, 2.0], {"pearson": 0.0, "spearmanr": 0.0}),
        ("stsb", [0.0, 1.0, 2.0], [2.0, 2.0, 2.0], {"pearson": 0.0, "spearmanr": 0.0}),
        ("stsb", [1.0], [2.0], {"pearson": 0.0, "spearmanr": 0.0}),
    ],
)
def test_what_is_not_defined_is_zero_and_never_nan(
    name: str, predictions: list[float], references: list[float], expected: dict[str, float]
) -> None:
    assert GlueMetric(name).compute(predictions=predictions, references=references) == expected


def test_a_constant_prediction_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        GlueMetric("stsb").compute(predictions=[2.0, 2.0], references=[1.0, 2.0])
    notes = [record.getMessage().split(" is not defined for constant predictions")[0] for record in caplog.records]
    assert notes == ["pearson", "spearmanr"]


def test_nearly_constant_predictions_are_finite() -> None:
    guesses = np.array([1e8, 1e8 + 8, 1e8], dtype=np.float32)
    found = compute_metrics_for(None, "regression")(EvalPrediction(guesses[:, None], np.array([0.0, 1.0, 0.0])))
    assert all(np.isfinite(value) for value in found.values())


LOGITS = np.array([[2.0, 1.0], [0.0, 3.0], [0.5, 0.6], [1.0, -1.0]])
LABELS = np.array([0, 1, 0, 0])


@pytest.mark.parametrize("outputs", [LOGITS, (LOGITS, np.zeros((4, 7))), [LOGITS], LOGITS.astype(np.float16)])
def test_the_first_output_holds_the_logits(outputs: Any) -> None:
    assert compute_metrics_for("mrpc")(EvalPrediction(outputs, LABELS)) == {
        "accuracy": 0.75,
        "f1": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("name", [name for name in glue.TASKS if name not in ("ax", "stsb")])
def test_every_glue_task_reports_the_metrics_of_its_table(name: str) -> None:
    task = glue.task(name)
    logits = np.eye(len(task.label_names))
    found = compute_metrics_for(name, task.kind)(EvalPrediction(logits, np.arange(len(logits))))
    assert found == dict.fromkeys(task.metrics, 1.0)


def test_a_regression_is_squeezed() -> None:
    prediction = EvalPrediction(np.array(GUESSES, dtype=np.float32)[:, None], np.array(SCORES, dtype=np.float32))
    for name in ("stsb", None):
        found = compute_metrics_for(name, "regression")(prediction)
        assert found == pytest.approx({"pearson": PEARSON, "spearmanr": SPEARMAN}, abs=1e-6)
    flat = EvalPrediction(np.array(GUESSES), np.array(SCORES))
    assert compute_metrics_for(None, "regression")(flat)["pearson"] == pytest.approx(PEARSON, abs=1e-12)


def test_own_tasks() -> None:
    two = compute_metrics_for(None)(EvalPrediction(LOGITS, LABELS))
    assert two == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}
    three = compute_metrics_for(None)(EvalPrediction(np.eye(3)[[0, 1, 2, 2]], np.array([0, 1, 1, 2])))
    assert three == {"accuracy": 0.75}


def test_rows_without_a_label_do_not_count() -> None:
    """Those of -100, which a loss ignores, too: of the others 3 of 4 are right."""
    logits = np.concatenate([LOGITS[:2], [[0.0, 9.0], [9.0, 0.0]], LOGITS[2:]])
    labels = np.array([0, 1, -100, -100, 0, 0])
    for name in (None, "mrpc"):
        found = compute_metrics_for(name)(EvalPrediction(logits, labels))
        assert found == {"accuracy": 0.75, "f1": pytest.approx(2 / 3)}
    three = compute_metrics_for(None)(EvalPrediction(np.eye(3)[[0, 1, 2, 2]], np.array([0, -100, 1, 2])))
    assert three == {"accuracy": pytest.approx(2 / 3)}


def test_several_labels_a_row() -> None:
    """By hand: of the first class 2 said, 1 of them right of 2 true; of the second all; the third never said or true.
    The label of the last row's first class is not known."""
    logits = np.array([[1.0, -1.0, -1.0], [2.0, 0.5, -0.1], [-1.0, 3.0, -2.0], [9.0, -1.0, 0.0]])
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [-100, 0, 0]])
    found = compute_metrics_for(None, "multi_label")(EvalPrediction(logits, labels.astype(np.float32)))
    first, second, third = 2 * 1 / (2 + 2), 1.0, 0.0
    unknown = np.concatenate([labels, np.full((3, 3), -100)]), np.concatenate([logits, logits[:3]])
    assert compute_metrics_for(None, "multi_label")(EvalPrediction(unknown[1], unknown[0])) == found
    assert found == {
        "f1_micro": pytest.approx(2 * 3 / (4 + 4)),
        "f1_macro": pytest.approx((first + second + third) / 3),
        "subset_accuracy": 0.5,
    }


def test_one_class_that_holds_or_does_not() -> None:
    """Scikit-learn takes one column for two classes."""
    logits, labels = np.array([[1.0], [-1.0], [-1.0], [-1.0]]), np.array([[0], [1], [0], [0]])
    found = compute_metrics_for(None, "multi_label")(EvalPrediction(logits, labels))
    assert found == {"f1_micro": 0.0, "f1_macro": 0.0, "subset_accuracy": 0.5}


def test_several_labels_are_scored_as_by_scikit_learn() -> None:
    random = np.random.default_rng(0)
    said, true = random.random((200, 5)) > 0.6, random.random((200, 5)) > 0.7
    found = multi_label_metrics(said, true)
    assert found["f1_micro"] == pytest.approx(f1_score(true, said, average="micro"))
    assert found["f1_macro"] == pytest.approx(f1_score(true, said, average="macro"))
    assert found["subset_accuracy"] == pytest.approx(accuracy_score(true, said))


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (LOGITS, LABELS, r"logits \[4, 2\] and labels \[4\]; expected \[rows, classes\] of both"),
        (LOGITS, LOGITS, "labels that are 0 or 1"),
        (LOGITS, np.full((4, 2), -100), "none of 4 rows has a label"),
    ],
)
def test_labels_that_are_no_flags_are_refused(logits: Any, labels: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        compute_metrics_for(None, "multi_label")(EvalPrediction(logits, labels))


@pytest.mark.parametrize(
    ("logits", "labels", "kind", "words"),
    [
        (LOGITS, np.array([0, 1, 2, 0]), "single_label", "labels from 0 to 2, but the logits have 2 classes"),
        (LOGITS, np.array([0, 1, -1, 0]), "single_label", "labels from -1 to 1, but the logits have 2 classes"),
        (LOGITS, np.full(4, -100), "single_label", "none of 4 rows has a label"),
        (LOGITS, LABELS.astype(float), "single_label", "labels are float64, not class ids"),
        (LOGITS, LABELS[:3], "single_label", r"logits \[4, 2\] and labels \[3\]"),
        (LOGITS[:, :1], LABELS, "single_label", r"logits \[4, 1\] .* expected \[rows, classes\]"),
        (LOGITS, LABELS, "regression", r"logits \[4, 2\] .* expected \[rows, 1\]"),
        (LOGITS[None], LABELS, "single_label", r"logits \[1, 4, 2\]"),
        (LOGITS[:, 0], LABELS, "single_label", r"logits \[4\]"),
    ],
)
def test_other_shapes_and_kinds_are_refused(logits: Any, labels: Any, kind: LabelKind, words: str) -> None:
    with pytest.raises(DataError, match=words):
        compute_metrics_for(None, kind)(EvalPrediction(logits, labels))


def test_nan_is_no_prediction() -> None:
    logits = LOGITS.copy()
    logits[1, 0] = np.nan
    with pytest.raises(NonFiniteLoss, match="predictions of 1 of 4 rows are NaN or infinite"):
        compute_metrics_for("sst2")(EvalPrediction(logits, LABELS))
    logits[1, 0] = np.inf  # as of a model in float16
    with pytest.raises(NonFiniteLoss, match="predictions of 1 of 4 rows are NaN or infinite"):
        compute_metrics_for("sst2")(EvalPrediction(logits, LABELS))
    logits[1] = -np.inf
    with pytest.raises(NonFiniteLoss, match="predictions of 1 of 4 rows are NaN or infinite"):
        compute_metrics_for("stsb")(EvalPrediction(logits[:, :1], LABELS.astype(np.float32)))
    logits[1] = LOGITS[1]
    logits[1, 0] = -np.inf
    assert compute_metrics_for("sst2")(EvalPrediction(logits, LABELS)) == {"accuracy": 0.75}


def test_an_unknown_task_names_the_nearest() -> None:
    for make in (GlueMetric, compute_metrics_for):
        with pytest.raises(DataError, match="no metric 'sst-2'; did you mean 'sst2'"):
            make("sst-2")
