"""`export`: a trained classifier in 8 bits, compared with the original on the rows of a GLUE task."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from hf_distill.commands import reports_errors
from hf_distill.data import glue
from hf_distill.data.tokenization import tokenize
from hf_distill.hub.export import SCHEMES, export_quantized
from hf_distill.loading import load_model, load_tokenizer

AUTO_CLASS = "AutoModelForSequenceClassification"
BATCH = 32
TASKS = [name for name, task in glue.TASKS.items() if task.validation_splits]


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = argparse.ArgumentParser(
        prog="export",
        description="Writes a classifier with linear layers in few bits, after a comparison of both on a GLUE task.",
    )
    made.add_argument("--model", required=True, help="the folder of the trained model")
    made.add_argument("--output_dir", required=True, type=Path, help="a folder that does not exist yet")
    made.add_argument("--task_name", required=True, choices=TASKS, help="the task that it was trained for")
    made.add_argument("--dataset_dir", help="files of the task; without it they are those of the Hub")
    made.add_argument("--scheme", choices=SCHEMES, default="int8_dynamic", help="int8_dynamic without it")
    made.add_argument("--keep", nargs="*", default=[], help="modules that stay in floats, such as classifier")
    made.add_argument("--least_agreement", type=float, default=0.98, help="write nothing below this (0.98)")
    made.add_argument("--max_length", type=int, default=128, help="cut texts to so many tokens (128)")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Writes the export and prints what was found; the exit status."""
    given = parser().parse_args(argv)
    task = glue.task(given.task_name)
    model = load_model(given.model, AUTO_CLASS, role="exported model")
    tokenizer = load_tokenizer(given.model, role="exported model")
    split = task.validation_splits[0]
    loaded = task.load(given.dataset_dir, needed=(split,)).splits[split]
    rows = tokenize(loaded, tokenizer, task.text_columns, max_length=given.max_length)
    found = export_quantized(
        given.model,
        given.output_dir,
        _batches(rows, tokenizer, _columns(task.label_names, model.config.label2id)),
        auto_class=AUTO_CLASS,
        scheme=given.scheme,
        keep=given.keep,
        least_agreement=given.least_agreement,
    )
    accuracy = "" if found.accuracy is None else f", accuracy {found.original_accuracy:.4f} -> {found.accuracy:.4f}"
    sys.stdout.write(
        f"{given.output_dir}: {found.original_bytes:,} -> {found.bytes:,} bytes, the same answer on "
        f"{found.agreement:.4f} of {found.rows} rows{accuracy}\n"
    )
    return 0


def _columns(names: Sequence[str], label2id: dict[str, int]) -> list[int]:
    """The model's class for each label of the task: by name, or in order where the model's have other names."""
    return [label2id.get(name, i) for i, name in enumerate(names)]


def _batches(rows: Any, tokenizer: PreTrainedTokenizerBase, columns: list[int]) -> Iterator[dict[str, Tensor]]:
    """All rows in batches, padded to the longest, with labels where they are classes."""
    collator = DataCollatorWithPadding(tokenizer)
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in rows.column_names]
    for first in range(0, len(rows), BATCH):
        taken = [rows[i] for i in range(first, min(first + BATCH, len(rows)))]
        items = [{name: row[name] for name in names} for row in taken]
        batch = dict(collator(items))
        yield batch | ({"labels": torch.tensor([columns[row["labels"]] for row in taken])} if columns else {})
