"""What texts are answered with, one class, any number of classes or a score, and how such answers are judged."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray
from transformers import PreTrainedModel

from hf_distill.data.labels import LabelKind
from hf_distill.evaluation import fidelity
from hf_distill.evaluation.evidence import Evidence
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.runs.labels import SEVERAL, Columns, align_labels, check_problem_type, in_model_order, label_settings

NONE = "none"
"""A text without a class, in words."""


@dataclass(frozen=True)
class TextAnswers(ABC):
    """Answers are logits `[rows, classes]` in the order of `names`, of a score `[rows, 1]`; `metric` is the one that
    is reported. Labels are what `labels` makes of the column of a split."""

    kind: ClassVar[LabelKind]
    own_metrics: ClassVar[tuple[str, ...]]
    """The metrics of data of one's own."""

    names: tuple[str, ...]
    metric: str = ""

    # ---- the models ----

    @abstractmethod
    def head(self) -> dict[str, Any]:
        """See `Workload.head`."""

    def fit(self, model: PreTrainedModel, role: str) -> Columns:
        """See `Workload.fit`."""
        columns = align_labels(model, role, self.names)
        check_problem_type(model, role, self.kind)
        return columns

    def in_model_order(self, rows: Dataset, columns: Columns) -> Dataset:
        """See `Workload.in_model_order`."""
        return in_model_order(rows, columns)

    # ---- labels ----

    @abstractmethod
    def labels(self, column: Sequence[Any]) -> NDArray[Any]:
        """The labels of all rows."""

    @abstractmethod
    def written(self, label: Any) -> Any:
        """A label of a row as files have it, by the names of its classes."""

    # ---- judging; see `Workload` ----

    @abstractmethod
    def agreement(self, ours: np.ndarray, teachers: np.ndarray) -> float: ...

    def accuracy_among(self, answers: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> float | None:
        return None

    def calibration_error(self, answers: np.ndarray, labels: np.ndarray) -> float | None:
        return None

    def right(self, answers: np.ndarray, labels: np.ndarray) -> NDArray[np.bool_] | None:
        """Which rows were answered right, `[rows]`, where the metric is the share of these."""
        return None

    @abstractmethod
    def evidence(self, answers: np.ndarray, labels: np.ndarray) -> Evidence: ...

    @abstractmethod
    def asked(self, labels: np.ndarray, text: Callable[[int], str]) -> Asked: ...

    @abstractmethod
    def answered(self, answers: np.ndarray, labels: np.ndarray) -> Answered: ...

    @abstractmethod
    def printed(self, answers: np.ndarray) -> list[str]:
        """The answer of each row, in a file of predictions."""


class OneClass(TextAnswers):
    """The class of the largest logit; labels are class ids `[rows]`."""

    kind = "single_label"
    own_metrics = ("accuracy",)

    def head(self) -> dict[str, Any]:
        return label_settings(self.names)

    def labels(self, column: Sequence[Any]) -> NDArray[Any]:
        return np.asarray(column, dtype=np.int64)

    def written(self, label: Any) -> Any:
        return self.names[label]

    def right(self, answers: np.ndarray, labels: np.ndarray) -> NDArray[np.bool_] | None:
        return self._right(answers, labels) if self.metric == "accuracy" else None

    def _right(self, answers: np.ndarray, labels: np.ndarray) -> NDArray[np.bool_]:
        right: NDArray[np.bool_] = answers.argmax(axis=1) == labels
        return right

    def agreement(self, ours: np.ndarray, teachers: np.ndarray) -> float:
        return fidelity.agreement(ours, teachers)

    def accuracy_among(self, answers: np.ndarray, labels: np.ndarray, classes: Sequence[int]) -> float | None:
        chosen = np.asarray(classes)
        rows = np.isin(labels, chosen)
        if not rows.any():
            return None
        return float((chosen[answers[rows][:, chosen].argmax(axis=1)] == labels[rows]).mean())

    def calibration_error(self, answers: np.ndarray, labels: np.ndarray) -> float | None:
        return fidelity.expected_calibration_error(answers, labels)

    def evidence(self, answers: np.ndarray, labels: np.ndarray) -> Evidence:
        """Which rows were answered right, or classes and labels where the metric is another."""
        if self.metric == "accuracy":
            return Evidence("mean", self._right(answers, labels)[:, None].astype(np.float64))
        return Evidence(self.metric, np.stack([answers.argmax(axis=1), labels], axis=1).astype(np.float64))

    def asked(self, labels: np.ndarray, text: Callable[[int], str]) -> Asked:
        return Asked("rows", "classes", labels, self.names, text, lambda row: self.names[labels[row]])

    def answered(self, answers: np.ndarray, labels: np.ndarray) -> Answered:
        said, right = answers.argmax(axis=1), self._right(answers, labels)
        return Answered(said, right, fidelity.confidence(answers), lambda row: self.names[said[row]])

    def printed(self, answers: np.ndarray) -> list[str]:
        return [self.names[column] for column in answers.argmax(axis=1)]


class SomeClasses(TextAnswers):
    """The classes whose logit is above 0, whose probability is above one half; labels are booleans
    `[rows, classes]`."""

    kind = "multi_label"
    own_metrics = ("f1_micro", "f1_macro", "subset_accuracy")

    def head(self) -> dict[str, Any]:
        return {**label_settings(self.names), "problem_type": SEVERAL}

    def in_model_order(self, rows: Dataset, columns: Columns) -> Dataset:
        if columns == tuple(range(len(columns))) or "labels" not in rows.column_names:
            return rows
        order = np.argsort(columns)[sum(column < 0 for column in columns) :]
        return rows.map(lambda batch: {"labels": np.asarray(batch["labels"])[:, order].tolist()}, batched=True)

    def labels(self, column: Sequence[Any]) -> NDArray[Any]:
        return np.asarray(column, dtype=np.float32).reshape(len(column), len(self.names)) > 0

    def written(self, label: Any) -> Any:
        return [name for name, holds in zip(self.names, label, strict=True) if holds]

    def _in_words(self, flags: np.ndarray) -> str:
        return ", ".join(self.written(flags)) or NONE

    def _counts(self, answers: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Classes that are right, said and true in each row, `[rows, 3]`."""
        said = answers > 0
        return np.stack([(said & labels).sum(axis=1), said.sum(axis=1), labels.sum(axis=1)], axis=1)

    def agreement(self, ours: np.ndarray, teachers: np.ndarray) -> float:
        return fidelity.agreement_of_sets(ours, teachers)

    def evidence(self, answers: np.ndarray, labels: np.ndarray) -> Evidence:
        return Evidence("entities", self._counts(answers, labels).astype(np.float64))

    def asked(self, labels: np.ndarray, text: Callable[[int], str]) -> Asked:
        return Asked("rows", "texts", text=text, truth_in_words=lambda row: self._in_words(labels[row]))

    def answered(self, answers: np.ndarray, labels: np.ndarray) -> Answered:
        said = answers > 0
        right = (said == labels).all(axis=1)
        return Answered(np.asarray(self.printed(answers)), right, in_words=lambda row: self._in_words(said[row]))

    def printed(self, answers: np.ndarray) -> list[str]:
        return [json.dumps(self.written(flags), ensure_ascii=False) for flags in answers > 0]


class Score(TextAnswers):
    """The one logit itself; labels are floats `[rows]`."""

    kind = "regression"
    own_metrics = ("pearson", "spearmanr")

    def head(self) -> dict[str, Any]:
        return label_settings(())

    def labels(self, column: Sequence[Any]) -> NDArray[Any]:
        return np.asarray(column, dtype=np.float32)

    def written(self, label: Any) -> Any:
        return label

    def agreement(self, ours: np.ndarray, teachers: np.ndarray) -> float:
        return fidelity.agreement(ours, teachers)

    def evidence(self, answers: np.ndarray, labels: np.ndarray) -> Evidence:
        return Evidence(self.metric, np.stack([answers[:, 0], labels], axis=1).astype(np.float64))

    def asked(self, labels: np.ndarray, text: Callable[[int], str]) -> Asked:
        return Asked("rows", "scores", labels, text=text, truth_in_words=lambda row: f"{labels[row]:.3f}")

    def answered(self, answers: np.ndarray, labels: np.ndarray) -> Answered:
        return Answered(answers[:, 0], in_words=lambda row: f"{answers[row, 0]:.3f}")

    def printed(self, answers: np.ndarray) -> list[str]:
        return [f"{score:.3f}" for score in answers[:, 0]]


ANSWERS: dict[LabelKind, type[TextAnswers]] = {made.kind: made for made in (OneClass, SomeClasses, Score)}
"""By the kind of the labels."""
