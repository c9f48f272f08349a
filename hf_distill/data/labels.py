"""Labels as they stand in files, and the ids they get."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from hf_distill.data.files import Table, check_text, choices, describe
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

Label = str | int | float

LabelKind = Literal["single_label", "multi_label", "regression"]
"""What a row has: one class, any number of classes, or a score; called as the tasks that learn it."""

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")

HOLDS = "a list holds the names or numbers of the classes that its text has, and nothing for the others"

_LARGEST = 3.4e38
"""Labels become float32."""


@dataclass(frozen=True)
class Labels:
    """What the cells of a label column mean: `ids[cell]` is the class, `names[id]` its name; both empty for a
    regression. With several classes a row, cells are lists of these."""

    names: tuple[str, ...]
    ids: Mapping[Label, int]
    kind: LabelKind = "single_label"

    @staticmethod
    def of(table: Table, column: str, names: Sequence[str] | None = None, trained: Sequence[str] = ()) -> Labels:
        """Reads from one table what kind of labels its column holds, and which.

        Numbers with a fraction are a regression. Else each distinct cell is a class, in alphabetical or numerical
        order, or in the order of `names`: there numbers are positions, unless all of them stand among the names.
        `trained` are the labels of a model that was trained for the task: where there is one alone, all numbers are a
        regression; where there are as many as numbers from 0 on, they are the names of these. Lists hold all classes
        of their row, each once; what was said of cells holds of their elements.

        Errors: DataError for a label that is missing, not finite, neither text nor number, or of another kind than the
        first; for names given to a regression; for texts that look like lists; for lists of scores, of a 0 or 1 for
        each class, and, without `names`, lists that are all empty.
        """
        if isinstance(next((cell for cell in table.columns[column] if cell is not None), None), list):
            return _of_lists(table, column, names, trained)
        cells = _cells(table, column)
        numbers = [number for cell in cells if not isinstance(number := _number(cell, table.is_text), str)]
        if len(numbers) < len(cells):
            known = sorted({str(cell) for cell in cells}) if names is None else list(names)
            _check_no_lists(table, column, known)
            return Labels(tuple(known), {name: i for i, name in enumerate(known)})
        trained = trained if names is None else ()
        if any(number % 1 for number in numbers) or len(trained) == 1:
            if names is not None:
                raise DataError(
                    f"{table.path}: column {column!r} has fractions, a regression, but label names are given."
                )
            return Labels((), {}, "regression")
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

    def encode(self, table: Table, column: str) -> list[int] | list[float] | list[list[float]]:
        """The class ids, or the floats, of a table; with several classes a row 1.0 for each that it has, and 0.0.

        Errors: DataError as in `of`, and for an unknown label.
        """
        if self.kind == "multi_label":
            return self._flags(table, column)
        return self._scores(table, column) if self.kind == "regression" else self._classes(table, column)

    def _scores(self, table: Table, column: str) -> list[float]:
        cells = [_number(cell, table.is_text) for cell in _cells(table, column)]
        for row, cell in enumerate(cells):
            if isinstance(cell, str):
                raise _unknown(table, row, column, cell, "the labels of this task are numbers")
        return [float(cell) for cell in cells]

    def _classes(self, table: Table, column: str) -> list[int]:
        cells = [cell if cell in self.ids else _number(cell, table.is_text) for cell in _cells(table, column)]
        for row, cell in enumerate(cells):
            if cell not in self.ids:
                raise _unknown(table, row, column, cell, choices(cell, map(str, self.ids)))
        return [self.ids[cell] for cell in cells]

    def _flags(self, table: Table, column: str) -> list[list[float]]:
        elements, rows = _elements(table, column)
        flags = [[0.0] * len(self.names) for _ in range(len(table))]
        for row, label in zip(rows, self._classes(elements, column), strict=True):
            if flags[row][label]:
                raise DataError(f"{table.place(row, column)}: {self.names[label]!r} stands there twice; {HOLDS}.")
            flags[row][label] = 1.0
        return flags


def _unknown(table: Table, row: int, column: str, cell: Label, expected: str) -> DataError:
    return DataError(f"{table.place(row, column)}: unknown label {describe(cell)}; {expected}.")


def check_names(names: Sequence[str]) -> None:
    """Errors: DataError where label names are not distinct texts."""
    wrong = next((name for name in names if not isinstance(name, str) or not name or names.count(name) > 1), None)
    if wrong is not None or not names:
        raise DataError(
            f"label names {list(names)}: {describe(wrong)} is not a name of its own; give one text a class."
        )


def _of_lists(table: Table, column: str, names: Sequence[str] | None, trained: Sequence[str]) -> Labels:
    elements, _ = _elements(table, column)
    if not len(elements):
        if names is None:
            raise DataError(f"{table.path}: no list in column {column!r} holds a class; there is nothing to learn.")
        return replace(Labels.named(names), kind="multi_label")
    if _are_flags(table.columns[column]):
        raise DataError(f"{table.path}: column {column!r} holds lists of a 0 or 1 for each class; {HOLDS}.")
    labels = Labels.of(elements, column, names, trained)
    if labels.kind == "regression":
        raise DataError(f"{table.path}: column {column!r} holds lists of scores; {HOLDS}.")
    return replace(labels, kind="multi_label")


def _are_flags(lists: list[list[Any]]) -> bool:
    """Whether each list has as many elements, two or more, and they are 0, 1 or truth values."""
    alike = len({len(cell) for cell in lists}) == 1 < len(lists[0])
    return alike and all(isinstance(element, int | float) and element in (0, 1) for cell in lists for element in cell)


def _check_no_lists(table: Table, column: str, names: Sequence[str]) -> None:
    listed = next((name for name in names if name.startswith("[") and name.endswith("]")), None)
    if listed is not None:
        raise DataError(
            f"{table.path}: column {column!r} holds {describe(listed)}, which looks like a list, and is a text. Write "
            "lists in JSON lines or parquet; for a class of that name, leave out its brackets."
        )


def _elements(table: Table, column: str) -> tuple[Table, list[int]]:
    """A table of the elements of lists, and the row of each."""
    lists = table.columns[column]
    for row, cell in enumerate(lists):
        if not isinstance(cell, list):
            raise DataError(
                f"{table.place(row, column)}: the label is {describe(cell)}; other rows have lists of classes, and "
                "one without any has an empty list."
            )
    rows = [row for row, cell in enumerate(lists) for _ in cell]
    elements = {column: [element for cell in lists for element in cell]}
    return replace(table, columns=elements, numbers=[table.numbers[row] for row in rows]), rows


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
    if cells and isinstance(cells[0], str):
        check_text(table, column)
    return cells


def _number(cell: Label, is_text: bool) -> Label:
    """The number that a cell of a text format shows; other cells as they are."""
    if not isinstance(cell, str) or not is_text or not _NUMBER.fullmatch(cell):
        return cell
    return int(cell) if cell.lstrip("+-").isdigit() and len(cell) < 40 else float(cell)
