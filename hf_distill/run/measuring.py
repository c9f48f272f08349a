"""How good a model is: its answers on every scored split, and what is reported of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from datasets import Dataset
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from hf_distill.evaluation import fidelity
from hf_distill.evaluation.latency import Latency, measure_latency
from hf_distill.evaluation.metrics import compute_metrics_for
from hf_distill.evaluation.summary import RunSummary
from hf_distill.run.corpus import Corpus
from hf_distill.run.folder import is_main_process, wait_for_everyone
from hf_distill.run.labels import Columns, in_model_order, in_task_order
from hf_distill.trainer import DistillationTrainer

Role = Literal["teacher", "student", "control"]

MISMATCHED = "_mismatched"


@dataclass(frozen=True)
class Answers:
    """Logits `[rows, classes]` of each split in the task's order of rows and classes, and its metrics as
    `eval_accuracy`, `test_accuracy`, `eval_accuracy_mm` (MNLI mismatched)."""

    logits: Mapping[str, np.ndarray]
    metrics: Mapping[str, float]


def metrics_of(corpus: Corpus, columns: Columns) -> Callable[[EvalPrediction], dict[str, float]]:
    """The task's metrics of a model whose classes stand in `columns`."""
    compute = compute_metrics_for(None if corpus.task is None else corpus.task.name, corpus.text.is_regression)
    if columns == tuple(range(len(columns))):
        return compute

    def in_order(prediction: EvalPrediction) -> dict[str, float]:
        logits = np.asarray(prediction.predictions)
        labels = np.argsort(columns)[np.asarray(prediction.label_ids)]
        return compute(EvalPrediction(predictions=in_task_order(logits, columns), label_ids=labels))

    return in_order


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Mapping[str, Dataset],
    corpus: Corpus,
    columns: Columns,
    arguments: TrainingArguments,
) -> Answers:
    """Runs a model over splits. Rows are read in order of length, and their answers put back in the order of the
    file.
    """
    trainer = DistillationTrainer(
        model=model,
        args=arguments,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=metrics_of(corpus, columns) if corpus.evaluated_splits else None,
    )
    logits: dict[str, np.ndarray] = {}
    metrics: dict[str, float] = {}
    for split, dataset in splits.items():
        prefix = "test" if split.startswith("test") else "eval"
        rows, order = by_length(in_model_order(dataset, columns))
        output = trainer.predict(rows, metric_key_prefix=prefix)
        found = np.asarray(output.predictions)
        logits[split] = np.empty_like(found)
        logits[split][order] = found
        logits[split] = in_task_order(logits[split], columns)
        metrics |= {
            _named(name, split): value for name, value in output.metrics.items() if "model_preparation" not in name
        }
        metrics[_named(f"{prefix}_samples", split)] = len(dataset)
    trainer.distillation.close()
    return Answers(logits, metrics)


def by_length(dataset: Dataset) -> tuple[Dataset, np.ndarray]:
    """The rows, longest first, so that a batch needs little padding, and their numbers in the order of the file."""
    order = np.argsort(-np.asarray(dataset["length"]), kind="stable")
    return dataset.select(order), order


def key_of(metric: str, split: str) -> str:
    """`accuracy` on `validation_mismatched` is `eval_accuracy_mm`."""
    return _named(f"{'test' if split.startswith('test') else 'eval'}_{metric}", split)


def _named(name: str, split: str) -> str:
    return f"{name}_mm" if split.endswith(MISMATCHED) else name


def summarize(
    name: str,
    role: Role,
    answers: Answers,
    corpus: Corpus,
    *,
    model: PreTrainedModel,
    size_bytes: int,
    teacher: Answers | None,
    latency: Latency | None,
    history: list[dict[str, Any]],
) -> RunSummary:
    """What is reported of a model on the reported split."""
    split = corpus.reported_split
    logits = answers.logits[split]
    labels = np.asarray(corpus.text.splits[split]["label"])
    return RunSummary(
        name=name,
        role=role,
        metrics={metric: answers.metrics[key_of(metric, split)] for metric in corpus.metrics},
        interval=interval_of(answers, corpus, split),
        agreement=None if teacher is None else fidelity.agreement(logits, teacher.logits[split]),
        calibration_error=None if corpus.text.is_regression else fidelity.expected_calibration_error(logits, labels),
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        size_bytes=size_bytes,
        latency=latency,
        history=history,
    )


def interval_of(answers: Answers, corpus: Corpus, split: str) -> tuple[float, float] | None:
    """The 95 % interval of the accuracy on a split, if accuracy is what is reported."""
    if corpus.metrics[0] != "accuracy":
        return None
    correct = correct_rows(answers, corpus, split)
    interval = fidelity.wilson_interval(int(correct.sum()), len(correct))
    return interval.low, interval.high


def correct_rows(answers: Answers, corpus: Corpus, split: str) -> np.ndarray:
    """Which rows of a split were answered right, boolean `[rows]`."""
    right: np.ndarray = answers.logits[split].argmax(axis=1) == np.asarray(corpus.text.splits[split]["label"])
    return right


def latency_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, corpus: Corpus, max_length: int
) -> Latency | None:
    """Measured by the main process alone, while the others wait; None for them."""
    found = None
    if is_main_process():
        texts = corpus.texts(corpus.reported_split)
        found = measure_latency(model, tokenizer, texts, max_length=max_length)
    wait_for_everyone()
    return found
