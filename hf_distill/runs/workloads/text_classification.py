"""Classes or scores of texts and pairs of texts: the GLUE tasks, and data of a user's choice."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import DataCollatorWithPadding, EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.data import glue
from hf_distill.data.glue import GlueTask
from hf_distill.data.selection import deduplicate, truncate
from hf_distill.data.text import TextData, load_files, load_packaged, of_tables
from hf_distill.data.tokenization import tokenize
from hf_distill.errors import DataError
from hf_distill.evaluation import fidelity
from hf_distill.evaluation.evidence import Evidence
from hf_distill.evaluation.metrics import compute_metrics_for
from hf_distill.evaluation.parting import Answered, Asked
from hf_distill.recipe import Data, Recipe, Teacher
from hf_distill.runs.abilities import Augmentable, Predicting
from hf_distill.runs.labels import Columns, in_task_order, stored_labels
from hf_distill.runs.models import leading, teacher_path
from hf_distill.runs.workload import Collator, Interval, Limits
from hf_distill.runs.workloads.labelled_rows import PredictedRows
from hf_distill.runs.workloads.splits import at_most, data_name, need_test, tables_of, with_cuts
from hf_distill.runs.workloads.text_answers import ANSWERS, TextAnswers
from hf_distill.tasks import IGNORED, SingleLabel

logger = logging.getLogger(__name__)

SAMPLE = 50
"""Texts on which two tokenizers must agree."""

FILE_NAMES = {"test_mismatched": "mnli-mm", "test_matched": "mnli"}
"""Splits whose predictions are not named after the task."""

DIAGNOSTICS = "ax"

SCORE = ("score",)
"""The one label of a regression."""


@dataclass(frozen=True)
class TextClassification(PredictedRows, Augmentable):
    """`name` is that of the GLUE task, the data set, the file or the package. The answers of a split are logits
    `[rows, classes]`, in the order of the rows and of the task's classes.
    """

    auto_class = SingleLabel.auto_class
    label_column: ClassVar[str] = "label"

    name: str
    data: TextData
    metrics: tuple[str, ...]
    task: GlueTask | None = None

    # ---- the data ----

    @property
    def commits(self) -> Mapping[str, str]:
        return {} if self.task is not None else super().commits  # a recipe names no revision of GLUE

    def _hub_facts(self, recipe: Recipe) -> dict[str, str | None]:
        on_hub = self.task is not None and recipe.dataset_dir is None
        of_glue = {"id": glue.HUB_ID, "config": self.name, "revision": self.data.commit}
        return of_glue if on_hub else super()._hub_facts(recipe)

    @property
    def answer_kind(self) -> TextAnswers:
        """What the texts are answered with."""
        return ANSWERS[self.data.kind](self.data.label_names, self.metrics[0])

    def in_model_order(self, rows: Dataset, columns: Columns) -> Dataset:
        return self.answer_kind.in_model_order(rows, columns)

    # ---- the models ----

    def samples(self) -> Iterator[str]:
        for column in self.data.text_columns:
            yield from self.splits["train"][:SAMPLE][column]

    def head(self) -> dict[str, Any]:
        return self.answer_kind.head()

    def fit(self, model: PreTrainedModel, role: str) -> Columns:
        return self.answer_kind.fit(model, role)

    # ---- reading ----

    def read(
        self, tokenizer: PreTrainedTokenizerBase, limits: Limits, splits: Sequence[str] | None = None
    ) -> dict[str, Dataset]:
        """See `hf_distill.data.tokenization.tokenize`."""
        longest = limits.longest(tokenizer)
        return {
            name: tokenize(
                self.splits[name],
                tokenizer,
                self.data.text_columns,
                max_length=longest,
                position_limits=limits.positions,
                input_names=limits.input_names,
            )
            for name in (self.splits if splits is None else splits)
        }

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Collator:
        collator: Collator = DataCollatorWithPadding(tokenizer)
        return collator

    def augmented(self, make: Callable[[Dataset, Sequence[str]], Dataset]) -> TextClassification:
        rows = make(self.splits["train"], self.data.text_columns)
        return replace(self, data=replace(self.data, splits=DatasetDict({**self.splits, "train": rows})))

    # ---- judging ----

    def answers(
        self, split: str, rows: Dataset, order: np.ndarray, found: EvalPrediction, columns: Columns
    ) -> np.ndarray:
        outputs = found.predictions[0] if isinstance(found.predictions, tuple) else found.predictions
        logits = np.empty_like(outputs)
        logits[order] = outputs
        return in_task_order(logits, columns)

    def score(self, split: str, answers: np.ndarray) -> dict[str, float]:
        if not self.is_labelled(split):
            return {}
        compute = compute_metrics_for(None if self.task is None else self.task.name, self.data.kind)
        return compute(EvalPrediction(predictions=answers, label_ids=self._labels(split)))

    def _labels(self, split: str) -> np.ndarray:
        return self.answer_kind.labels(self.splits[split]["label"][:])

    def agreement(self, split: str, ours: np.ndarray, teachers: np.ndarray) -> float:
        return self.answer_kind.agreement(ours, teachers)

    def accuracy_among(self, split: str, answers: np.ndarray, classes: Sequence[int]) -> float | None:
        return self.answer_kind.accuracy_among(answers, self._labels(split), classes)

    def calibration_error(self, split: str, answers: np.ndarray) -> float | None:
        return self.answer_kind.calibration_error(answers, self._labels(split))

    def interval(self, split: str, answers: np.ndarray) -> Interval | None:
        """Of an accuracy Wilson's, which holds where nearly all rows are right, too."""
        right = self.answer_kind.right(answers, self._labels(split))
        if right is None:
            return super().interval(split, answers)
        found = fidelity.wilson_interval(int(right.sum()), len(right))
        return found.low, found.high

    def lead(self, split: str, student: np.ndarray, control: np.ndarray) -> str:
        """Of an accuracy with McNemar's test, too."""
        labels, said = self._labels(split), super().lead(split, student, control)
        ours, theirs = (self.answer_kind.right(answers, labels) for answers in (student, control))
        if ours is None or theirs is None:
            return said
        return f"{said} Row by row, p = {fidelity.mcnemar_p_value(ours, theirs):.2g} (McNemar)."

    def evidence(self, split: str, answers: np.ndarray) -> Evidence:
        return self.answer_kind.evidence(answers, self._labels(split))

    def asked(self, split: str) -> Asked | None:
        if not self.is_labelled(split):
            return None
        rows, columns = self.splits[split], self.data.text_columns

        def text(row: int) -> str:
            return " | ".join(str(rows[row][column]) for column in columns)

        return self.answer_kind.asked(self._labels(split), text)

    def answered(self, split: str, answers: np.ndarray) -> Answered:
        return self.answer_kind.answered(answers, self._labels(split))

    def texts(self) -> list[str] | list[tuple[str, str]]:
        """The texts of the reported split, or its pairs of texts."""
        columns = [list(self.splits[self.reported_split][column]) for column in self.data.text_columns]
        return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))

    # ---- predictions ----

    def predictions(self, split: str, answers: np.ndarray) -> tuple[str, str]:
        """A row's number and its answer, separated by a tab, under a line that says so: the name of the class, a JSON
        list of them, or a score to three digits."""
        labels = self.answer_kind.printed(answers)
        lines = ["index\tprediction", *(f"{i}\t{label}" for i, label in enumerate(labels))]
        name = FILE_NAMES.get(split, self.name if self.task is not None else split)
        return f"predict_results_{name}.txt", "\n".join(lines) + "\n"

    def companions(self, recipe: Recipe) -> Iterable[Predicting]:
        """AX, for MNLI, where it is at hand."""
        if self.task is None or self.name != "mnli":
            return ()
        place = None if recipe.dataset_dir is None else Path(recipe.dataset_dir) / DIAGNOSTICS
        if place is not None and not place.is_dir():
            logger.warning("%s is not there; AX is not predicted.", place)
            return ()
        return (load_diagnostics(recipe, place),)


def load(recipe: Recipe, *, train: bool, predict: bool, student: str | None = None) -> TextClassification:
    """The texts and labels of a recipe. Raises: `DataError`, as `load_workload`."""
    if recipe.data is not None:
        name, text = _own_data(recipe.data, _trained_labels(recipe, student))
        need_test(text.splits, name, predict)
        found = TextClassification(name, text, ANSWERS[text.kind].own_metrics)
    else:
        task = glue.task(str(recipe.task))
        needed = [*(["train"] if train else []), *task.validation_splits, *(task.test_splits if predict else ())]
        found = TextClassification(task.name, task.load(recipe.dataset_dir, needed=needed), task.metrics, task)
    return replace(found, data=replace(found.data, splits=at_most(found.data.splits, recipe)))


def load_diagnostics(recipe: Recipe, dataset_dir: str | Path | None) -> TextClassification:
    """The texts of AX, which a student of MNLI predicts."""
    task = glue.task(DIAGNOSTICS)
    text = task.load(dataset_dir, needed=["test"])
    test = truncate(text.splits["test"], recipe.max_samples.test).select_columns(list(text.text_columns))
    return TextClassification(task.name, replace(text, splits=DatasetDict({"test": test})), task.metrics, task)


def _trained_labels(recipe: Recipe, student: str | None) -> tuple[str, ...]:
    """Those of the finished student, or else of a teacher that is not trained by the run."""
    teacher = leading(recipe)
    if recipe.data is not None and recipe.data.regression:
        return SCORE
    if student is not None:
        return stored_labels(student, recipe.student.revision)
    if teacher is None or (isinstance(teacher, Teacher) and teacher.fine_tune is not None):
        return ()
    return stored_labels(teacher_path(teacher), teacher.revision)


def _own_data(data: Data, trained: Sequence[str]) -> tuple[str, TextData]:
    columns = data.text_columns or []
    of_labels = (columns, data.label_column, data.label_names, data.where or None, trained)
    if data.package is not None:
        source = data.package
        name = source.name
        text = load_packaged(source.name, source.file, source.sha256, *of_labels)
    else:
        name = data_name(data)
        label = str(data.label_column)
        tables = tables_of(data, [*columns, *(name for name in data.where if name != label)], [label])
        text = of_tables(tables, *of_labels)
    _check_labels(name, str(data.label_column), text)
    if data.regression and text.kind != "regression":
        raise DataError(
            f"{name}: column {data.label_column!r} holds words or lists, and --regression (data.regression) says that "
            "its labels are scores; name the column of the scores, or leave it out."
        )
    splits = dict(text.splits)
    if data.deduplicate:
        splits = {split: deduplicate(of_split, text.text_columns) for split, of_split in splits.items()}
    return name, _with_exemplars(replace(text, splits=DatasetDict(with_cuts(splits, data))), data)


def _with_exemplars(text: TextData, data: Data) -> TextData:
    """The rows of old tasks in front of the training rows, so that `max_samples` keeps them.

    Raises: `DataError` as of any file, and for a label that the data do not have.
    """
    if data.exemplars is None:
        return text
    found = load_files({"train": data.exemplars}, text.text_columns, data.label_column, text.label_names or None)
    if (found.kind, text.kind) != ("single_label", "single_label"):
        raise DataError(f"{data.exemplars}: exemplars stand for one class each, and here are others; leave them out.")
    train = concatenate_datasets([found.splits["train"], text.splits["train"]])
    sources = {**text.sources, "exemplars": found.sources["train"]}
    return replace(text, splits=DatasetDict({**text.splits, "train": train}), sources=sources)


def _check_labels(name: str, column: str, text: TextData) -> None:
    if str(IGNORED) in text.label_names:
        raise DataError(
            f"{name}: column {column!r} holds {IGNORED}, which marks rows without a label; leave those rows out."
        )
    if text.kind != "regression" and len(text.label_names) < 2:
        raise DataError(
            f"{name}: column {column!r} holds one label only, {text.label_names[0]!r}; there is nothing to learn. Is "
            "it the right column?"
        )
