"""Training rows that know their number."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datasets import Dataset

from hf_distill.data.label_column import cells, label_column
from hf_distill.errors import DataError
from hf_distill.objectives.base import ROW_INDEX


class NumberedRows:
    """Rows of any kind that can be counted, with a column `row_index`; all else is that of the rows.

    A row keeps its number where one is asked for by another in each epoch, as of `PackedRows`.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._with_number(self._rows[number], number)

    def __getitems__(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Rows fetched together, as torch's loaders do where it is offered: the rows' own way, where they have one."""
        fetch = getattr(self._rows, "__getitems__", None)
        found = [self._rows[number] for number in numbers] if fetch is None else fetch(numbers)
        return [self._with_number(row, number) for row, number in zip(found, numbers, strict=True)]

    def _with_number(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        return {**row, ROW_INDEX: number % len(self)}

    def __getattr__(self, name: str) -> Any:
        if name == "_rows":
            raise AttributeError(name)
        return getattr(self._rows, name)


def numbered(rows: Any) -> Any:
    """The rows with a column `row_index`, counted from 0.

    Raises: `DataError` for a stream, whose rows have no number.
    """
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise DataError(
            f"an objective keeps something of each training row, and the rows of a stream ({type(rows).__name__}) "
            "have no number; store them first (streaming: false), or leave the objective out."
        )
    if isinstance(rows, Dataset):
        kept = rows.remove_columns(ROW_INDEX) if ROW_INDEX in rows.column_names else rows
        return kept.add_column(ROW_INDEX, list(range(len(rows))))
    return rows if isinstance(rows, NumberedRows) else NumberedRows(rows)


def classes_of(rows: Any) -> list[int] | None:
    """The label of each row, where it has one whole number (`labels` or `label`); else None."""
    name = label_column(rows)
    return None if name is None or not isinstance(rows[0][name], int) else list(cells(rows, name))
