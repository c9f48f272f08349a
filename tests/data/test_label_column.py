"""Where the labels of training rows are looked for, whoever asks."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from hf_distill.data.class_counts import class_counts
from hf_distill.data.label_column import cells, label_column
from hf_distill.data.numbering import classes_of


@pytest.mark.parametrize("make", [list, Dataset.from_list])
@pytest.mark.parametrize(
    ("columns", "name", "classes", "counts"),
    [
        ({"label": [2, 0, 2]}, "label", [2, 0, 2], [1, 0, 2]),
        ({"labels": [1, 1, 0], "label": [2, 2, 2]}, "labels", [1, 1, 0], [1, 2, 0]),
        ({"labels": [[1, -100], [0, 0], [2, 1]]}, "labels", None, [2, 2, 1]),
    ],
)
def test_labels_stand_in_one_column(
    make: Any, columns: dict[str, list[Any]], name: str, classes: list[int] | None, counts: list[int]
) -> None:
    rows = make([dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    assert label_column(rows) == name
    assert list(cells(rows, name)) == columns[name]
    assert classes_of(rows) == classes
    assert class_counts(rows, 3) == counts


def test_rows_without_labels_have_no_such_column() -> None:
    assert label_column([{"text": "a"}]) is None
    assert label_column([]) is None
    assert classes_of([{"text": "a"}]) is None
