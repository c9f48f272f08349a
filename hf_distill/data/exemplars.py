"""A few rows of old tasks that stand for them while a student learns a new one.

They are rows of the user's data, and stay where they are: their file is not among those that are published.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hf_distill.anatomy import Anatomy
from hf_distill.data.files import check_text, describe, read
from hf_distill.errors import DataError
from hf_distill.losses import at_least_float32, unit
from hf_distill.tasks import real_tokens
from hf_distill.writing import write_whole


@dataclass(frozen=True)
class Exemplar:
    """A row of the data: its number there, its text or pair of texts by column, its label's name, and the task or
    stage that it was chosen in."""

    row: int
    texts: Mapping[str, str]
    label: str
    task: str = ""


def exemplar_herding(features: Tensor, number: int, *, normalize: bool = True) -> list[int]:
    """Rows of one class whose mean is nearest to that of the class, best first (iCaRL; Rebuffi, Kolesnikov, Sperl &
    Lampert, 2017, arXiv:1611.07725).

    With mu = mean_i f_i, of rows of length 1 unless `normalize` is False, row k is the i, not chosen before, with the
    smallest |mu - (f_i + the sum of those chosen) / k|; mu is not brought to length 1, and of equal rows the first is
    taken. The order matters: a list is shortened from its end. `features` `[rows, width]`; all rows, in that order,
    where there are not more than `number`.

    Raises: `DataError` for features of no row, or that are not finite, and for a `number` below 1.
    """
    if number < 1:
        raise DataError(f"exemplar_herding: {number} exemplars of a class are asked for; ask for one or more.")
    if features.dim() != 2 or not len(features) or not bool(features.isfinite().all()):
        raise DataError(
            f"exemplar_herding: features of shape {tuple(features.shape)}; they must be [rows, width], of one row or "
            "more, and finite."
        )
    rows = at_least_float32(features)
    rows = unit(rows) if normalize else rows
    mean, total = rows.mean(0), rows.new_zeros(rows.shape[1])
    free = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    chosen: list[int] = []
    for count in range(1, min(number, len(rows)) + 1):
        distances = (mean - (rows + total) / count).square().sum(1)
        best = int(distances.masked_fill(~free, math.inf).argmin())
        free[best] = False
        total = total + rows[best]
        chosen.append(best)
    return chosen


def quota(budget: int, classes: int) -> int:
    """Exemplars of each class out of a budget for all: floor(budget / classes).

    Raises: `DataError` for a budget that leaves none for a class.
    """
    if classes < 1 or budget < classes:
        raise DataError(
            f"exemplars: a budget of {budget} for {classes} classes leaves none for a class; give at least {classes}."
        )
    return budget // classes


def choose_exemplars(
    model: nn.Module,
    batches: Iterable[Mapping[str, Any]],
    labels: Sequence[int],
    per_class: int,
) -> dict[int, list[int]]:
    """The numbers of the rows that stand for each class, by `exemplar_herding` over the mean states of the last layer.

    `batches` are those of all rows in order, as the model takes them, and `labels` the class of each row. The model
    runs without gradient and in eval mode, and is left in the mode that it was in.

    Raises: `DataError` where rows and labels do not match in number.
    """
    features = torch.cat(list(_features(model, batches)))
    if len(features) != len(labels):
        raise DataError(f"exemplars: {len(labels)} labels for {len(features)} rows; give one for each.")
    numbers = torch.tensor(labels, device=features.device)
    found: dict[int, list[int]] = {}
    for label in sorted(set(labels)):
        rows = (numbers == label).nonzero().flatten()
        found[label] = rows[exemplar_herding(features[rows], per_class)].tolist()
    return found


@torch.no_grad()
def _features(model: nn.Module, batches: Iterable[Mapping[str, Any]]) -> Iterator[Tensor]:
    """The mean over real tokens of the last layer's states, a row each."""
    anatomy, training = Anatomy.of(model), model.training
    model.eval()
    try:
        for batch in batches:
            given = {name: tensor for name, tensor in batch.items() if name in anatomy.accepts and name != "labels"}
            states = at_least_float32(model(**given, output_hidden_states=True).hidden_states[-1])
            real = real_tokens(given).unsqueeze(-1)
            yield torch.where(real, states, 0.0).sum(1) / real.sum(1).clamp(min=1)
    finally:
        model.train(training)


def shortened(exemplars: Sequence[Exemplar], per_class: int) -> list[Exemplar]:
    """The first `per_class` of each class, which are its best, in their order."""
    seen: dict[str, int] = {}
    kept = []
    for each in exemplars:
        seen[each.label] = seen.get(each.label, 0) + 1
        if seen[each.label] <= per_class:
            kept.append(each)
    return kept


def write_exemplars(path: str | Path, exemplars: Sequence[Exemplar], label_column: str = "label") -> None:
    """Writes one JSON object a line: `row`, `task`, the columns of text and that of the label, so that it is a file of
    rows like any other.

    Raises: `DataError` where a column has the name of another one, and where the file cannot be written.
    """
    lines = []
    for each in exemplars:
        line = {"row": each.row, "task": each.task, label_column: each.label}
        taken = sorted(line.keys() & each.texts.keys())
        if taken or len(line) < 3:
            raise DataError(f"exemplars: the column {(taken or [label_column])[0]!r} is there twice; rename it.")
        lines.append(json.dumps({**line, **each.texts}, ensure_ascii=False) + "\n")
    try:
        write_whole(Path(path), "".join(lines).encode())
    except OSError as error:
        raise DataError(f"{path}: the exemplars cannot be written: {error.strerror or error}.") from error


def read_exemplars(path: str | Path, text_columns: Sequence[str], label_column: str = "label") -> list[Exemplar]:
    """What `write_exemplars` wrote.

    Raises: `DataError` for a file that cannot be read, lacks a column, or has a cell of another kind in one.
    """
    table = read(path, ["row", "task", label_column, *text_columns])
    for name in ("task", label_column, *text_columns):
        check_text(table, name)
    wrong = next((i for i, row in enumerate(table.columns["row"]) if type(row) is not int or row < 0), None)
    if wrong is not None:
        found = describe(table.columns["row"][wrong])
        raise DataError(f"{table.place(wrong, 'row')}: holds {found}, expected the number of a row from 0.")
    return [
        Exemplar(
            table.columns["row"][i],
            {name: table.columns[name][i] for name in text_columns},
            table.columns[label_column][i],
            table.columns["task"][i],
        )
        for i in range(len(table))
    ]
