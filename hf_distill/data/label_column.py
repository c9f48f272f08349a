"""The column of training rows that holds their labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datasets import Dataset

COLUMNS = ("labels", "label")
"""What it may be called, the first first: collators make the one of the other."""


def label_column(rows: Any) -> str | None:
    """The name of the column, of rows that can be counted; None where they have none, and where there are no rows."""
    return next((name for name in COLUMNS if len(rows) and name in rows[0]), None)


def cells(rows: Any, name: str) -> Iterator[Any]:
    """What stands in a column, row by row."""
    if isinstance(rows, Dataset):
        for batch in rows.select_columns([name]).iter(batch_size=1000):
            yield from batch[name]
    else:
        yield from (rows[i][name] for i in range(len(rows)))
