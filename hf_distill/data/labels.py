"""Labels as they stand in files, and the ids they get."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hf_distill.data.files import Table, check_text, choices, describe
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

Label = str | int | float

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

_LARGEST = 3.4e38
"""Labels become float32."""


@dataclass(frozen=True)
class Labels:
    """What the cells of a label column mean: `ids[cell]` is the class, `names[id]` its name; both empty for a
    regression."""

    names: tuple[str, ...]
    ids: Mapping[Label, int]
    is_regression: bool = False

    @staticmethod
    def of(table: Table, column: str, names: Sequence[str] | None = None, trained: Sequence[str] = ()) -> Labels:
        """Reads from one table what kind of labels its column holds, and which.

        Numbers with a fraction are a regression. Else each distinct cell is a class, in alphabetical or numerical
        order, or in the order of `names`: there numbers are positions, unless all of them stand among the names.
        `trained` are the labels of a model that was trained for the task: where there is one alone, all numbers are a
        regression; where there are as many as numbers from 0 on, they are the names of these.

        Errors: DataError for a label that is missing, not finite, neither text nor number, or of another kind than the
        first; for names given to a regression.
        """
        cells = _cells(table, column)
        numbers = [number for cell in cells if not isinstance(number := _number(cell, table.is_text), str)]
        if len(numbers) < len(cells):
            known = sorted({str(cell) for cell in cells}) if names is None else list(names)
            return Labels(tuple(known), {name: i for i, name in enumerate(known)})
        trained = trained if names is None else ()
        if any(number % 1 for number in numbers) or len(trained) == 1:
            if names is not None:
                raise DataError(
                    f"{table.path}: column {column!r} has fractions, a regression, but label names are given."
                )
            return Labels((), {}, is_regression=True)
        classes = [str(number) for number in sorted({int(number) for number in numbers})]
        if classes == [str(i) for i in range(len(trained))]:
            logger.warning(
                "%s: the labels %s in column %r are taken to be %s, the model's, in its order.",
                table.path,
                classes,
                column,
                list(trained),
            )
            names = trained
        known = classes if names is None else list(names)
        by_name = set(classes) <= set(known)
        return Labels(tuple(known), {_number(name, True) if by_name else i: i for i, name in enumerate(known)})

    @staticmethod
    def named(names: Sequence[str]) -> Labels:
        """Labels written as these names, or as their positions."""
        return Labels(tuple(names), {key: i for i, name in enumerate(names) for key in (name, i)})

    def encode(self, table: Table, column: str) -> list[int] | list[float]:
        """The class ids, or the floats, of a table. Errors: DataError as in `of`, and for an unknown label."""
        cells = [cell if cell in self.ids else _number(cell, table.is_text) for cell in _cells(table, column)]
        if self.is_regression:
            wrong = next((row for row, cell in enumerate(cells) if isinstance(cell, str)), None)
            expected = "the labels of this task are numbers"
        else:
            wrong = next((row for row, cell in enumerate(cells) if cell not in self.ids), None)
            expected = choices(cells[wrong or 0], map(str, self.ids))
        if wrong is not None:
            raise DataError(f"{table.place(wrong, column)}: unknown label {describe(cells[wrong])}; {expected}.")
        return [float(cell) for cell in cells] if self.is_regression else [self.ids[cell] for cell in cells]


def check_names(names: Sequence[str]) -> None:
    """Errors: DataError where label names are not distinct texts."""
    wrong = next((name for name in names if not isinstance(name, str) or not name or names.count(name) > 1), None)
    if wrong is not None or not names:
        raise DataError(
            f"label names {list(names)}: {describe(wrong)} is not a name of its own; give one text a class."
        )


def _cells(table: Table, column: str) -> list[Label]:
    cells: list[Label] = table.columns[column]
    for row, cell in enumerate(cells):
        if isinstance(cell, bool) or not isinstance(cell, str | int | float) or cell == "":
            raise DataError(f"{table.place(row, column)}: the label is {describe(cell)}; write a text or a number.")
        number = _number(cell, table.is_text)
        if not isinstance(number, str) and not abs(number) < _LARGEST:
            raise DataError(f"{table.place(row, column)}: the label is {describe(cell)}, which is not finite.")
        if isinstance(cell, str) != isinstance(cells[0], str):
            raise DataError(
                f"{table.place(row, column)}: the label is {describe(cell)}, but {describe(cells[0])} in "
                f"{table.unit} {table.numbers[0]}; write all labels as text, or all as numbers."
            )
    if isinstance(cells[0], str):
        check_text(table, column)
    return cells


def _number(cell: Label, is_text: bool) -> Label:
    """The number that a cell of a text format shows; other cells as they are."""
    if not isinstance(cell, str) or not is_text or not _NUMBER.fullmatch(cell):
        return cell
    return int(cell) if cell.lstrip("+-").isdigit() and len(cell) < 40 else float(cell)
