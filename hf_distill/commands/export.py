"""`export`: a trained classifier in 8 bits, or as an ONNX graph, compared with the original on rows of its task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.commands import reports_errors
from hf_distill.commands.flags import names_in
from hf_distill.commands.help import Parser
from hf_distill.data import glue
from hf_distill.data.files import read
from hf_distill.data.text import TextData, check_columns, of_tables
from hf_distill.data.tokenization import tokenize
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.hub.comparing import Batches, Exported
from hf_distill.hub.export import SCHEMES, export_quantized
from hf_distill.hub.graphs import QUANTIZED, Texts, export_graph
from hf_distill.hub.record import Export
from hf_distill.loading import load_model, load_tokenizer
from hf_distill.runs.workloads.text_answers import ANSWERS

AUTO_CLASS = "AutoModelForSequenceClassification"
BATCH = 32
Rows = tuple[TextData, str, str]
"""Splits, the name of the one that is compared on, and what it is called."""
TASKS = [name for name, task in glue.TASKS.items() if task.validation_splits]


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = Parser("export", "Writes a classifier in another form, after a comparison of both on rows of its task.")
    made.add_argument("--model", required=True, help="the folder of the trained model")
    made.add_argument("--output_dir", required=True, type=Path, help="a folder that does not exist yet")
    rows = made.add_mutually_exclusive_group(required=True)
    rows.add_argument("--task_name", choices=TASKS, help="the GLUE task that it was trained for")
    rows.add_argument("--validation_file", metavar="FILE", help="rows of its task (.jsonl, .csv, .parquet …)")
    made.add_argument("--dataset_dir", help="files of the GLUE task; without it they are those of the Hub")
    made.add_argument(
        "--text_columns", type=names_in, metavar="a,b", help="the file's column of texts, or two of pairs"
    )
    made.add_argument("--label_column", metavar="NAME", help="the file's column of labels, if it has one")
    made.add_argument(
        "--format",
        choices=("int8", *QUANTIZED),
        default="int8",
        help="int8 (the default): linear layers in few bits, for from_pretrained with torchao; onnx: a graph in "
        "float32 for ONNX Runtime; onnx-int8: a graph with its matrices in 8 bits",
    )
    made.add_argument("--scheme", choices=SCHEMES, help="of int8: int8_dynamic without it")
    made.add_argument("--keep", nargs="*", help="of int8: modules that stay in floats, such as classifier")
    made.add_argument("--least_agreement", type=float, default=0.98, help="write nothing below this (0.98)")
    made.add_argument("--max_length", type=int, default=128, help="cut texts to so many tokens (128)")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the export and prints what was found; the exit status."""
    given = parser().parse_args(argv)
    if given.format in QUANTIZED and (given.scheme is not None or given.keep is not None):
        raise DistillationError(f"export: --scheme and --keep are of --format int8, not of {given.format}.")
    _check_columns(given)
    model = load_model(given.model, AUTO_CLASS, role="exported model")
    tokenizer = load_tokenizer(given.model, role="exported model")
    data, split, told_rows = _task(given) if given.task_name is not None else _file(given, model)
    loaded = data.splits[split]
    rows = tokenize(loaded, tokenizer, data.text_columns, max_length=given.max_length)
    has_classes = data.kind != "regression" and "label" in loaded.column_names
    if has_classes:
        rows = _in_model_order(rows, data, model)
    batches = list(_batches(rows, tokenizer, has_classes))
    if given.format in QUANTIZED:
        sides = [list(loaded[column]) for column in data.text_columns]
        texts = sides[0] if len(sides) == 1 else list(zip(*sides, strict=True))
        said = _graph(given, batches, texts, told_rows)
    else:
        said = _quantized(given, batches)
    sys.stdout.write(f"{given.output_dir}: {said}\n")
    return 0


def _in_model_order(rows: Dataset, data: TextData, model: PreTrainedModel) -> Dataset:
    """The rows with labels as the model counts them.

    Raises: `IncompatiblePair` for a model of other classes, or of one class where the rows have lists.
    """
    if data.kind == "multi_label" and model.config.problem_type is None:
        raise IncompatiblePair(
            "export: the rows have lists of classes, and the model's config.json does not say whether it gives one "
            "class or any number; if it does, write problem_type: multi_label_classification there."
        )
    answers = ANSWERS[data.kind](data.label_names)
    return answers.in_model_order(rows, answers.fit(model, "exported model"))


def _check_columns(given: argparse.Namespace) -> None:
    """Raises: `DistillationError` for flags of the other kind of rows, and for a file without columns."""
    if given.validation_file is not None and given.text_columns is None:
        raise DistillationError(
            "export: --validation_file needs --text_columns: the column of the text, or the two of a pair (a,b)."
        )
    if given.validation_file is not None:
        check_columns(given.text_columns, given.label_column)
    of_file, of_task = ("text_columns", "label_column"), ("dataset_dir",)
    wrong = [name for name in (of_task if given.task_name is None else of_file) if getattr(given, name) is not None]
    if wrong:
        other = "--validation_file" if given.task_name is not None else "--task_name"
        raise DistillationError(f"export: --{wrong[0]} goes with {other}; leave it out.")


def _task(given: argparse.Namespace) -> Rows:
    task = glue.task(given.task_name)
    split = task.validation_splits[0]
    return task.load(given.dataset_dir, needed=(split,)), split, f"{task.name}, {split}"


def _file(given: argparse.Namespace, model: PreTrainedModel) -> Rows:
    """Labels are the model's names, or their places among them, from 0 on."""
    labels = [] if given.label_column is None else [given.label_column]
    table = read(given.validation_file, [*given.text_columns, *labels])
    names = [str(model.config.id2label[i]) for i in range(model.config.num_labels)]
    data = of_tables(
        {"validation": table}, given.text_columns, given.label_column, names if len(names) > 1 else None, None, names
    )
    return data, "validation", Path(given.validation_file).name


def _quantized(given: argparse.Namespace, batches: Batches) -> str:
    found = export_quantized(
        given.model,
        given.output_dir,
        batches,
        auto_class=AUTO_CLASS,
        scheme=given.scheme or "int8_dynamic",
        keep=given.keep or [],
        least_agreement=given.least_agreement,
    )
    return f"{found.original_bytes:,} -> {found.bytes:,} bytes, {_compared(found)}"


def _graph(given: argparse.Namespace, batches: Batches, texts: Texts, rows: str) -> str:
    found = export_graph(
        given.model,
        given.output_dir,
        batches,
        texts,
        form=given.format,
        auto_class=AUTO_CLASS,
        told=rows,
        max_length=given.max_length,
        least_agreement=given.least_agreement,
    )
    return told(found)


def _compared(found: Exported | Export) -> str:
    accuracy = "" if found.accuracy is None else f", accuracy {found.original_accuracy:.4f} -> {found.accuracy:.4f}"
    return f"the same answer on {found.agreement:.4f} of {found.rows} rows{accuracy}"


def told(found: Export) -> str:
    """A graph in a line."""
    timed = ""
    if found.speed is not None and found.original_speed is not None:
        before, after = found.original_speed.milliseconds_per_sentence, found.speed.milliseconds_per_sentence
        threads = f"{found.speed.threads} thread{'' if found.speed.threads == 1 else 's'}"
        timed = f", {before:.2f} -> {after:.2f} ms per sentence on {threads}"
    return f"{found.bytes:,} bytes, {_compared(found)}{timed}"


def _batches(rows: Any, tokenizer: PreTrainedTokenizerBase, has_classes: bool) -> Iterator[dict[str, Tensor]]:
    """All rows in batches, padded to the longest, with labels where they are classes."""
    collator = DataCollatorWithPadding(tokenizer)
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in rows.column_names]
    for first in range(0, len(rows), BATCH):
        taken = [rows[i] for i in range(first, min(first + BATCH, len(rows)))]
        items = [{name: row[name] for name in names} for row in taken]
        batch = dict(collator(items))
        yield batch | ({"labels": torch.tensor([row["labels"] for row in taken])} if has_classes else {})
