"""How many training labels each class has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hf_distill.data.label_column import COLUMNS, cells, label_column
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED


def class_counts(rows: Any, number: int) -> list[int]:
    """How many labels of each of so many classes the rows have. A row has one whole number (`labels` or `label`), or a
    list with one for each token, -100 where there is none.

    Raises: `DataError` for a stream, for rows without such labels, and for a label that is none of the classes.
    """
    if not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise DataError(
            f"labels are counted before training, and those of a stream ({type(rows).__name__}) are not known; store "
            "its rows first (streaming: false), or write the weights of the classes down."
        )
    counts = np.zeros(number, dtype=np.int64)
    for labels in _labels(rows):
        found = np.atleast_1d(np.asarray(labels))
        if found.size and not np.issubdtype(found.dtype, np.integer):
            raise DataError(f"labels are counted by class, and a row has {labels!r}; classes are whole numbers.")
        found = found[found != IGNORED].astype(np.int64)
        if found.size and not 0 <= found.min() <= found.max() < number:
            raise DataError(f"a row has the label {labels!r}, and the classes are 0 to {number - 1}.")
        counts += np.bincount(found, minlength=number)
    return [int(count) for count in counts]


def _labels(rows: Any) -> Iterator[Any]:
    name = label_column(rows)
    if name is None:
        raise DataError(
            f"labels are counted by class, and the rows have no column {' or '.join(map(repr, COLUMNS))}; add it, or "
            "write the weights of the classes down."
        )
    return cells(rows, name)
