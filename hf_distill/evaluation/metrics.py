"""The metrics of GLUE and of a user's own tasks, without a network."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn.metrics import f1_score, matthews_corrcoef
from transformers import EvalPrediction

from hf_distill.data import glue
from hf_distill.data.files import choices
from hf_distill.data.labels import LabelKind
from hf_distill.errors import DataError, NonFiniteLoss
from hf_distill.evaluation.local import LocalMetric
from hf_distill.tasks import IGNORED

logger = logging.getLogger(__name__)

CONFIGURATIONS = {
    **{name: task.metrics for name, task in glue.TASKS.items() if name != "ax"},
    "mnli_matched": ("accuracy",),
    "mnli_mismatched": ("accuracy",),
    "hans": ("accuracy",),
}
"""The configurations of the metric "glue" of the library evaluate, and the values that each reports."""

LESS_IS_BETTER = frozenset({"loss", "perplexity", "kl", "wer", "cer"})
"""Metrics whose smaller value is the better one; of all others it is the larger."""

CITATION = """@inproceedings{wang2019glue,
  title = {{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author = {Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  booktitle = {International Conference on Learning Representations},
  year = {2019}
}"""


class GlueMetric(LocalMetric):
    """The metric "glue" of the library evaluate: same configurations, names and values.

    Where a correlation is not defined (constant predictions), it is 0.0 with a warning in the log, as NaN would never
    compare as better or worse.

    Errors: DataError for an unknown configuration.
    """

    def __init__(self, config_name: str) -> None:
        if config_name not in CONFIGURATIONS:
            raise DataError(f"GLUE has no metric {config_name!r}; {choices(config_name, CONFIGURATIONS)}.")
        super().__init__(config_name)

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float32" if self.config_name == "stsb" else "int64")
        return evaluate.MetricInfo(
            description=f"Metrics of the GLUE task {self.config_name}.",
            citation=CITATION,
            inputs_description="predictions and references: class ids, or floats for stsb.",
            features=datasets.Features({"predictions": kind, "references": kind}),
            format="numpy",
        )

    def _compute(self, predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
        return {name: METRICS[name](predictions, references) for name in CONFIGURATIONS[self.config_name]}


def compute_metrics_for(
    task_name: str | None, kind: LabelKind = "single_label"
) -> Callable[[EvalPrediction], dict[str, float]]:
    """What a `Trainer` takes as `compute_metrics`, for a GLUE task, or for a task of one's own (`task_name` None).

    Logits `[rows, classes]` become class ids, those of a regression `[rows, 1]` floats; of several outputs the first
    one is meant. A task of one's own gets `accuracy`, with two classes also `f1` (of class 1), or `pearson` and
    `spearmanr`; with several labels a row those of `multi_label_metrics`, a class being said where its logit is above
    0. Labels of -100 are not known and do not count.

    Errors: DataError for an unknown task. When called: DataError for labels that are no ids of the logits' classes, or
    no 0 and 1 for each class, no labels at all, or logits of another shape; NonFiniteLoss where predictions are NaN or
    infinite.
    """
    if task_name is None and kind == "multi_label":
        return lambda prediction: multi_label_metrics(*_flags(prediction))
    if task_name is None:
        return lambda prediction: _own_metrics(*_decoded(prediction, kind == "regression"))
    metric = GlueMetric(task_name)

    def glue_metrics(prediction: EvalPrediction) -> dict[str, float]:
        predictions, labels, _ = _decoded(prediction, task_name == "stsb")
        return dict(metric.compute(predictions=predictions, references=labels))

    return glue_metrics


def multi_label_metrics(predictions: np.ndarray, references: np.ndarray) -> dict[str, float]:
    """Of booleans `[rows, classes]`: F1 over all classes of all rows (`f1_micro`), its mean over the classes
    (`f1_macro`, 0 for a class that is neither said nor true), and the share of rows whose classes are all right
    (`subset_accuracy`)."""
    # Not scikit-learn's: it takes one column for two classes.
    right, both = (predictions & references).sum(axis=0), predictions.sum(axis=0) + references.sum(axis=0)
    return {
        "f1_micro": float(2 * right.sum() / max(both.sum(), 1)),
        "f1_macro": float((2 * right / np.maximum(both, 1)).mean()),
        "subset_accuracy": float((predictions == references).all(axis=1).mean()),
    }


def less_is_better(metric: str) -> bool:
    """Whether the smaller value of a metric is the better one; its name may begin as in results (`eval_`, `test_`)."""
    return metric.removeprefix("eval_").removeprefix("test_") in LESS_IS_BETTER


def _own_metrics(predictions: np.ndarray, labels: np.ndarray, width: int) -> dict[str, float]:
    names = {1: ("pearson", "spearmanr"), 2: ("accuracy", "f1")}.get(width, ("accuracy",))
    return {name: METRICS[name](predictions, labels) for name in names}


def _decoded(prediction: EvalPrediction, is_regression: bool) -> tuple[np.ndarray, np.ndarray, int]:
    """Predicted and true labels, `[rows]` each, and the width of the logits."""
    logits, labels = _logits(prediction), np.asarray(prediction.label_ids)
    if is_regression and logits.ndim == 1:
        logits = logits[:, None]
    if logits.ndim != 2 or (logits.shape[1] == 1) != is_regression or labels.shape != logits.shape[:1]:
        expected = "[rows, 1]" if is_regression else "[rows, classes]"
        raise DataError(
            f"metrics: logits {list(logits.shape)} and labels {list(labels.shape)}; expected {expected} and [rows]."
        )
    _check_numbers(logits)
    if is_regression:
        return logits[:, 0], labels, 1
    if not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"metrics: the labels are {labels.dtype}, not class ids; is the task a regression?")
    return *_labelled(logits.argmax(axis=1), labels, logits.shape[1]), logits.shape[1]


def _logits(prediction: EvalPrediction) -> np.ndarray:
    outputs = prediction.predictions
    return np.asarray(outputs[0] if isinstance(outputs, tuple | list) else outputs)


def _check_numbers(logits: np.ndarray) -> None:
    """A class that a model does not have may be at -inf, beside others."""
    broken = int((~np.isfinite(logits.max(axis=1))).sum())
    if broken:
        raise NonFiniteLoss(f"metrics: the predictions of {broken} of {len(logits)} rows are NaN or infinite.")


def _flags(prediction: EvalPrediction) -> tuple[np.ndarray, np.ndarray]:
    """Which classes are said and which are true, booleans `[rows, classes]`, of the rows of which a label is known;
    neither where one is not."""
    logits, labels = _logits(prediction), np.asarray(prediction.label_ids)
    known = labels != IGNORED
    if logits.ndim != 2 or labels.shape != logits.shape or not np.isin(labels[known], (0, 1)).all():
        raise DataError(
            f"metrics: logits {list(logits.shape)} and labels {list(labels.shape)}; expected [rows, classes] of both, "
            "and labels that are 0 or 1."
        )
    if not known.any():
        raise DataError(f"metrics: none of {len(labels)} rows has a label.")
    _check_numbers(logits)
    rows = known.any(axis=1)
    return ((logits > 0) & known)[rows], ((labels == 1) & known)[rows]


def _labelled(predictions: np.ndarray, labels: np.ndarray, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions and labels of the rows that have a label."""
    kept = labels != IGNORED
    if not kept.any():
        raise DataError(f"metrics: none of {len(labels)} rows has a label.")
    predictions, labels = predictions[kept], labels[kept]
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"metrics: labels from {labels.min()} to {labels.max()}, but the logits have {classes} classes."
        )
    return predictions, labels


def _accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    return float((predictions == references).mean())


def _f1(predictions: np.ndarray, references: np.ndarray) -> float:
    return float(f1_score(references, predictions, zero_division=0.0))


def _matthews(predictions: np.ndarray, references: np.ndarray) -> float:
    if len(np.union1d(predictions, references)) == 1:
        return _undefined("matthews_correlation")
    return float(matthews_corrcoef(references, predictions))


def _pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    return _correlation("pearson", stats.pearsonr, predictions, references)


def _spearman(predictions: np.ndarray, references: np.ndarray) -> float:
    return _correlation("spearmanr", stats.spearmanr, predictions, references)


def _correlation(name: str, correlate: Callable[..., Any], predictions: np.ndarray, references: np.ndarray) -> float:
    if min(len(np.unique(predictions)), len(np.unique(references))) < 2:
        return _undefined(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)
        value = float(correlate(predictions, references)[0])
    return value if np.isfinite(value) else _undefined(name)


def _undefined(name: str) -> float:
    logger.warning("%s is not defined for constant predictions or labels; reported as 0.0.", name)
    return 0.0


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": _spearman,
}
"""The metrics by name: functions of predicted and true labels, `[rows]` each."""
