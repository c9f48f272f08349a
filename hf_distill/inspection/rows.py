"""Made-up rows of a task, for steps that are measured."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from datasets import Dataset

from hf_distill.anatomy import Anatomy
from hf_distill.data.sentences import MARGIN
from hf_distill.tasks import IGNORED, PROMPT_TOKENS, Task

HIDDEN = 0.15
"""The share of words that a masked language model predicts."""


def made_up_rows(student: Anatomy, task: Task, number: int, length: int, words: int) -> Dataset:
    """Rows of random tokens, of the first `words` of the vocabulary, without padding, each ending in the end token if
    there is one, with labels of the task.
    """
    generator = np.random.default_rng(0)
    config = student.base.config
    ids = generator.integers(0, words, (number, length))
    special = [getattr(config, f"{name}_token_id", None) for name in ("pad", "eos", "bos")]
    for token in (each for each in special if isinstance(each, int)):
        ids[ids == token] = _ordinary(special, words)
    if isinstance(special[1], int):
        ids[:, -1] = special[1]
    columns = {"input_ids": ids, "attention_mask": np.ones_like(ids), "length": np.full(number, length)}
    columns |= _labels(student, task, ids, generator)
    return Dataset.from_dict({name: list(values) for name, values in columns.items()})


def read_twice(rows: Dataset, words: int) -> Dataset:
    """The rows with as many random tokens of a teacher's own vocabulary of `words`, each of which is a span with one
    of the student's."""
    generator = np.random.default_rng(1)
    ids = generator.integers(0, words, np.asarray(rows["input_ids"]).shape)
    spans = np.broadcast_to(np.arange(ids.shape[1]) - 1, ids.shape)
    columns = {"teacher_input_ids": ids, "teacher_labels": ids, "teacher_attention_mask": np.ones_like(ids)}
    for name, values in {**columns, "student_spans": spans, "teacher_spans": spans}.items():
        rows = rows.add_column(name, list(values))
    return rows


def with_prompts(rows: Dataset, length: int) -> Dataset:
    """The rows, of which the first `length` tokens, or else the first one, are prompts."""
    return rows.add_column(PROMPT_TOKENS, [max(length, 1)] * len(rows))


def with_texts_beside(rows: Dataset, columns: Collection[str]) -> Dataset:
    """The rows with those of the columns that hold another text of each row (`passes.Beside`), as long as its own, and
    a teacher's margins."""
    for column in sorted(columns):
        name = next((each for each in ("input_ids", "attention_mask") if column.endswith(f"_{each}")), None)
        if name is not None:
            rows = rows.add_column(column, rows[name][::-1])
    return rows.add_column(MARGIN, [0.0] * len(rows)) if MARGIN in columns else rows


def _ordinary(special: list[Any], size: int) -> int:
    return next(token for token in range(size) if token not in special)


def _labels(student: Anatomy, task: Task, ids: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
    number, length = ids.shape
    classes = max(student.shape.num_logits, 1)
    if task.name == "regression":
        return {"labels": generator.random((number, classes), dtype=np.float32)}
    if task.name == "multi_label":
        return {"labels": generator.integers(0, 2, (number, classes)).astype(np.float32)}
    if task.name == "question_answering":
        return {name: generator.integers(0, length, (number,)) for name in task.label_names}
    if task.name == "single_label":
        return {"labels": generator.integers(0, classes, (number,))}
    if task.name == "token_classification":
        return {"labels": generator.integers(0, classes, ids.shape)}
    if task.name == "masked_lm":
        return {"labels": np.where(generator.random(ids.shape) < HIDDEN, ids, IGNORED)}
    return {"labels": ids} if task.label_names else {}
