"""The rows that trials learn from and are judged on: both from the training rows, so that what is reported at the end
was never looked at."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from hf_distill.data import selection
from hf_distill.errors import DataError
from hf_distill.hub.record import write_whole
from hf_distill.recipe import Recipe
from hf_distill.runs.workloads.text_classification import TextClassification

SHARE, MOST = 0.1, 2000
"""How many of the training rows judge trials: a tenth, two thousand at most."""

SEED = 0


@dataclass(frozen=True)
class HeldOut:
    """Files of the rows that are left to train on, shuffled, and of those held out; how many there are to train on."""

    folder: Path
    workload: TextClassification
    rows: int

    def changes(self, rows: int) -> dict[str, Any]:
        """What a recipe of the data becomes a trial's by, which learns from the first `rows` rows."""
        most = {"max_samples": {"train": rows}}
        if self.workload.task is not None:
            return {**most, "dataset_dir": str(self.folder)}
        data: dict[str, Any] = {
            "files": {"train": str(self.folder / "train.jsonl"), "validation": str(self.folder / "validation.jsonl")},
            "text_columns": list(self.workload.data.text_columns),
            "label_column": TextClassification.label_column,
        }
        names = self.workload.data.label_names
        return {**most, "data": {**data, **({"label_names": list(names)} if names else {})}}


def hold_out(workload: TextClassification, folder: Path) -> HeldOut:
    """Cuts a tenth of the training rows, of each class the same share where a row has one and some class has enough of
    them, and writes both parts into `folder`, where they are not there yet; of a task with several validations, every
    one is these rows.

    Raises: `DataError` for too few rows.
    """
    rows = workload.splits["train"]
    if len(rows) < 20:
        raise DataError(
            f"{workload.name}: {len(rows)} training rows are too few to hold a tenth out; give 20 or more."
        )
    share = min(SHARE, MOST / len(rows))
    largest = max(Counter(map(str, rows[TextClassification.label_column][:])).values())
    parts = selection.split(rows, validation=share, test=0.0, seed=SEED, stratify=round(share * largest) > 0)
    names = workload.task.validation_splits if workload.task is not None else ("validation",)
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in {"train": "train", **dict.fromkeys(names, "validation")}.items():
        path = folder / f"{name}.jsonl"
        if not path.exists():
            write_whole(path, _lines(parts[part], workload))
    return HeldOut(folder, workload, len(parts["train"]))


def on_held_out(recipe: Recipe, held_out: HeldOut, rows: int) -> Recipe:
    """The recipe as a trial of it."""
    return recipe.override({**held_out.changes(rows), "control": False})


def _lines(rows: Dataset, workload: TextClassification) -> str:
    """Files of one's own have the labels by name, those of a task by number."""
    label, own = TextClassification.label_column, workload.task is None
    plain = ({**row, label: workload.answer_kind.written(row[label]) if own else row[label]} for row in rows)
    return "".join(json.dumps(row) + "\n" for row in plain)
