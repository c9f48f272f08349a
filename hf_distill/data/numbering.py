"""Training rows that know their number."""

from __future__ import annotations

from typing import Any

from datasets import Dataset

from hf_distill.errors import DataError
from hf_distill.objectives.base import ROW_INDEX


class NumberedRows:
    """Rows of any kind that can be counted, with a column `row_index`; all else is that of the rows."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {**self._rows[number], ROW_INDEX: number}

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
    if not len(rows):
        return None
    name = next((name for name in ("labels", "label") if isinstance(rows[0].get(name), int)), None)
    if name is None:
        return None
    return list(rows[name][:]) if isinstance(rows, Dataset) else [rows[i][name] for i in range(len(rows))]
