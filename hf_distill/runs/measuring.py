"""How good a model is: its answers on every scored split, and what is reported of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from hf_distill.evaluation.latency import Latency, measure_latency
from hf_distill.evaluation.summary import RunSummary
from hf_distill.loading import stays
from hf_distill.model_sizes import num_parameters
from hf_distill.ranks import is_main_process, wait_for_everyone
from hf_distill.runs.abilities import Generating
from hf_distill.runs.labels import Columns
from hf_distill.runs.workload import Workload
from hf_distill.trainer import DistillationTrainer

Role = Literal["teacher", "student", "control"]

MISMATCHED = "_mismatched"


@dataclass(frozen=True)
class Answers:
    """What a model answered on each split, as the workload keeps it, and its metrics as `eval_accuracy`,
    `test_accuracy`, `eval_accuracy_mm` (MNLI mismatched)."""

    kept: Mapping[str, Any]
    metrics: Mapping[str, float]


def metrics_of(
    workload: Workload, split: str, rows: Dataset, order: np.ndarray, columns: Columns
) -> Callable[[EvalPrediction], dict[str, float]]:
    """The metrics of a split for a trainer that reads `rows`, which are the split's at `order`."""

    def compute(found: EvalPrediction) -> dict[str, float]:
        return workload.score(split, workload.answers(split, rows, order, found, columns))

    return compute


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    splits: Mapping[str, Dataset],
    workload: Workload,
    columns: Columns,
    arguments: TrainingArguments,
    teacher: PreTrainedModel | None = None,
) -> Answers:
    """Runs a model over splits. Rows are read in order of length, and their answers put back in the order of the
    file. Language models are compared with a `teacher` as well, word by word.
    """
    with only_read(model):
        trainer = DistillationTrainer(
            model=model,
            args=arguments,
            processing_class=tokenizer,
            data_collator=workload.collator(tokenizer),
            preprocess_logits_for_metrics=None if workload.in_words else workload.reduce,
        )
    if workload.in_words:
        beside = None if teacher is None else placed(teacher, trainer.args.device)
        trainer.distillation.answer_in_words(beside)
    kept: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    for split, dataset in splits.items():
        prefix = "test" if split.startswith("test") else "eval"
        rows, order = by_length(workload.in_model_order(dataset, columns))
        output = trainer.predict(rows, metric_key_prefix=prefix)
        found = EvalPrediction(predictions=output.predictions, label_ids=output.label_ids)
        kept[split] = workload.answers(split, rows, order, found, columns)
        if isinstance(workload, Generating) and workload.generation is not None:
            texts = generated_texts(model, tokenizer, rows, order, workload, arguments)
            kept[split] = workload.with_texts(split, kept[split], texts)
        scores = {f"{prefix}_{name}": value for name, value in workload.score(split, kept[split]).items()}
        measured = {name: value for name, value in output.metrics.items() if "model_preparation" not in name}
        samples = {f"{prefix}_samples": workload.sizes[split]}
        metrics |= {_named(name, split): value for name, value in {**measured, **scores, **samples}.items()}
    trainer.distillation.close()
    return Answers(kept, metrics)


@contextmanager
def only_read(model: Any) -> Iterator[None]:
    """The Trainer refuses weights of few bits, which cannot be trained; here none are."""
    quantized = getattr(model, "is_quantized", False)
    if quantized:
        model.is_quantized = False
    try:
        yield
    finally:
        if quantized:
            model.is_quantized = True


def placed(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    """The model on a device, but for one that stays where it was laid."""
    return model if stays(model) or model.device == device else model.to(device)


def generated_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Dataset,
    order: np.ndarray,
    workload: Generating,
    arguments: TrainingArguments,
) -> list[str]:
    """What a model generates for rows, which are a split's at `order`, in the order of the split."""
    generating = copy.copy(arguments)
    generating.predict_with_generate = True
    with only_read(model):
        trainer = DistillationTrainer(
            model=model, args=generating, processing_class=tokenizer, data_collator=workload.collator(tokenizer)
        )
    unlabelled = rows.remove_columns([name for name in ("labels",) if name in rows.column_names])
    tokens = trainer.predict(unlabelled, **(workload.generation or {})).predictions
    trainer.distillation.close()
    padding = tokenizer.pad_token_id
    found = tokenizer.batch_decode(np.where(tokens < 0, padding, tokens), skip_special_tokens=True)
    texts = [""] * len(found)
    for place, text in zip(order, found, strict=True):
        texts[place] = text.strip()
    return texts


def by_length(dataset: Dataset) -> tuple[Dataset, np.ndarray]:
    """The rows, longest first, so that a batch needs little padding, and their numbers in the order of the data set;
    as they are where no lengths are known."""
    if "length" not in dataset.column_names:
        return dataset, np.arange(len(dataset))
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
    workload: Workload,
    *,
    model: PreTrainedModel,
    size_bytes: int,
    teacher: Answers | None,
    latency: Latency | None,
    history: list[dict[str, Any]],
) -> RunSummary:
    """What is reported of a model on the reported split."""
    split = workload.reported_split
    kept = answers.kept[split]
    return RunSummary(
        name=name,
        role=role,
        metrics={metric: answers.metrics[key_of(metric, split)] for metric in workload.metrics},
        interval=workload.interval(split, kept),
        agreement=None if teacher is None else workload.agreement(split, kept, teacher.kept[split]),
        calibration_error=workload.calibration_error(split, kept),
        parameters=num_parameters(model),
        size_bytes=size_bytes,
        latency=latency,
        history=history,
    )


def latency_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, workload: Workload, max_length: int
) -> Latency | None:
    """Measured by the main process alone, while the others wait; None for them, and where there are no texts."""
    found = None
    if is_main_process():
        texts = workload.texts()
        found = measure_latency(model, tokenizer, texts, max_length=max_length) if texts else None
    wait_for_everyone()
    return found
