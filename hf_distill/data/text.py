"""A user's own classification or regression task, from tables of rows."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from hf_distill.data.files import Table, check_text, choices, commit_of, describe, read, sums
from hf_distill.data.labels import LabelKind, Labels, check_names
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")

BLANK: tuple[Any, ...] = (None, "")
"""What stands for no label; so do lists of nothing else, where a test has no other."""

SECRET = (-1, "-1")
"""The label of test rows whose true label their authors keep to themselves."""

Where = Mapping[str, str | int | float | bool]


@dataclass(frozen=True)
class TextData:
    """The splits of a task, checked.

    Every split has `text_columns` (one, or two for pairs) and, unless it is unlabelled, `label`, by `kind`: the class
    id, whose name is `label_names[id]`; 1.0 or 0.0 for each class; or a float. `sources` maps each split to the
    SHA-256 of what it was read from; `commit` is that of a data set of the Hub.
    """

    splits: DatasetDict
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    kind: LabelKind
    sources: Mapping[str, str]
    commit: str | None = None


def load_files(
    files: Mapping[str, str | Path],
    text_columns: Sequence[str],
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    where: Where | None = None,
    trained_labels: Sequence[str] = (),
) -> TextData:
    """Reads the splits `train`, `validation`, `test` from files of the formats of `hf_distill.data.files`.

    Labels are text, numbers or lists of them; what they are is read from `train` as `Labels.of` says, `label_names`
    fixes their order, and `trained_labels`, those of a model, say what numbers mean. Without `label_column` nothing is
    labelled; a `test` that lacks the column, or has nothing in it, stays unlabelled. `where` keeps the rows with these
    values. Other columns are dropped.

    Errors: DataError, with file, line and column, for a text that is missing, not text, or holds a lone surrogate; for
    labels that are missing, of mixed kinds, not finite or unknown; for an unknown split; where `where` matches
    nothing.
    """
    check_columns(text_columns, label_column, label_names)
    for split in files:
        if split not in SPLITS:
            raise DataError(f"data files: unknown split {split!r}; {choices(split, SPLITS)}.")
    if "train" not in files and (not files or (label_column is not None and label_names is None)):
        raise DataError(
            f"data files: no train among {sorted(files)}; it says which labels there are, or label_names does."
        )
    tables = {}
    for split, path in files.items():
        labelled = [] if label_column is None else [label_column]
        needed = [*text_columns, *(name for name in where or {} if name != label_column)]
        tables[split] = read(path, [*needed, *labelled], []) if split != "test" else read(path, needed, labelled)
    return of_tables(tables, text_columns, label_column, label_names, where, trained_labels)


def of_tables(
    tables: Mapping[str, Table],
    text_columns: Sequence[str],
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    where: Where | None = None,
    trained_labels: Sequence[str] = (),
) -> TextData:
    """The splits of tables that were read, each with the columns that `load_files` reads; the arguments are those of
    `load_files`, checked.

    Classes that a table names itself, as those of the Hub do, are in its order. `label_names` then give them another
    order, or other names if none of theirs is among them. Rows that have none of these classes are left out, and
    counted in the log. A `test` whose labels are all -1, where `train` has none, is unlabelled.

    Errors: as `load_files`.
    """
    column = label_column or ""
    renamed = {split: _renamed(table, column, label_names) for split, table in tables.items()}
    if "test" in renamed:
        renamed["test"] = unlabelled(renamed["test"], column, _blank(renamed, column))
    known = {split: _matching(_labelled(table, column), where or {}) for split, table in renamed.items()}
    labelled = [known[split] for split in SPLITS if split in known and column in known[split].columns]
    names = label_names or next((table.class_names.get(column) for table in labelled), None)
    labels = Labels.of(labelled[0], column, names, trained_labels) if labelled else Labels(tuple(names or ()), {})
    if labelled and len(labels.names) == 1:
        logger.warning("%s: there is one class only, %r.", labelled[0].path, labels.names[0])
    splits = {split: to_dataset(table, text_columns, column, labels) for split, table in known.items()}
    data = DatasetDict(splits)
    return TextData(data, tuple(text_columns), labels.names, labels.kind, sums(tables), commit_of(tables))


def load_packaged(
    package: str,
    file: str,
    sha256: str,
    text_columns: Sequence[str],
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    where: Where | None = None,
    trained_labels: Sequence[str] = (),
) -> TextData:
    """Reads `train` from a data file that an installed Python package brings; no code of the package runs.

    `file` is a path inside the package; its SHA-256 is compared before it is parsed. The rest is as in `load_files`.

    Errors: as `load_files`; DataError where the package is not installed, or `file` is not inside it.
    """
    check_columns(text_columns, label_column, label_names)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise DataError(f"package {package!r}: sha256 {sha256!r} is not 64 lower-case hexadecimal digits.")
    needed = [*text_columns, *([] if label_column is None else [label_column]), *(where or {})]
    table = read(_packaged_file(package, file), needed, sha256=sha256)
    return of_tables({"train": table}, text_columns, label_column, label_names, where, trained_labels)


def to_dataset(table: Table, text_columns: Sequence[str], label_column: str, labels: Labels) -> Dataset:
    """The rows of a table: its text columns, checked, and `label` if it has `label_column`.

    Errors: DataError, see `load_files`. Texts without a visible character are allowed, and counted in the log.
    """
    columns: dict[str, Any] = {}
    features: dict[str, Any] = {}
    for name in text_columns:
        check_text(table, name)
        columns[name], features[name] = table.columns[name], Value("string")
        empty = sum(not text.strip() for text in table.columns[name])
        if empty:
            logger.warning("%s: %d of %d texts in column %r are empty.", table.path, empty, len(table), name)
    if label_column in table.columns:
        columns["label"] = labels.encode(table, label_column)
        features["label"] = _feature(labels)
    return Dataset.from_dict(columns, features=Features(features))


def _feature(labels: Labels) -> Any:
    """How labels are stored."""
    if labels.kind == "single_label":
        return ClassLabel(names=list(labels.names))
    return List(Value("float32"), length=len(labels.names)) if labels.kind == "multi_label" else Value("float32")


def unlabelled(table: Table, column: str, blank: Collection[Any] = BLANK) -> Table:
    """The table without its label column, if that holds nothing but `blank` values."""

    def says_nothing(cell: Any) -> bool:
        return all(map(says_nothing, cell)) if isinstance(cell, list) else cell in blank

    holds_none = column in table.columns and all(map(says_nothing, table.columns[column]))
    return table.without(column) if holds_none else table


def check_columns(
    text_columns: Sequence[str], label_column: str | None, label_names: Sequence[str] | None = None
) -> None:
    """Errors: DataError for columns of text that are none, too many, or the label's, and for names that are none."""
    if isinstance(text_columns, str):
        raise DataError(f"text columns {text_columns!r}: give a list of names, such as [{text_columns!r}].")
    if not 1 <= len(text_columns) <= 2 or len({*text_columns, label_column}) <= len(text_columns):
        raise DataError(
            f"text columns {list(text_columns)}: give one column, or two for pairs, other than the label's."
        )
    if "label" in text_columns:
        raise DataError(f"text columns {list(text_columns)}: labels are called 'label' here; rename that column.")
    if label_names is not None:
        check_names(label_names)


def _renamed(table: Table, column: str, names: Sequence[str] | None) -> Table:
    """The table with `names` for the classes that it names itself, where there are as many and none of them is among
    its own."""
    own = table.class_names.get(column, ())
    if not names or len(names) != len(own) or {*names} & {*own}:
        return table
    to = dict(zip(own, names, strict=True))

    def renamed(cell: Any) -> Any:
        return [renamed(element) for element in cell] if isinstance(cell, list) else to.get(cell, cell)

    return replace(table, columns={**table.columns, column: [renamed(cell) for cell in table.columns[column]]})


def _blank(tables: Mapping[str, Table], column: str) -> tuple[Any, ...]:
    """What stands in a test for a label that is kept secret."""
    train = tables["train"].columns.get(column, []) if "train" in tables else []
    return BLANK if any(label in train for label in SECRET) else (*BLANK, *SECRET)


def _labelled(table: Table, column: str) -> Table:
    """The rows with a class, of a table that names its classes: data sets of the Hub mark others by -1."""
    if column not in table.class_names or column not in table.columns:
        return table
    rows = [row for row, cell in enumerate(table.columns[column]) if cell is not None]
    if not rows:
        raise DataError(f"{table.path}: no row has a class in column {column!r}; all of them are -1.")
    left_out = len(table) - len(rows)
    if left_out:
        logger.warning("%s: %d of %d rows have no class, and are left out.", table.path, left_out, len(table))
    return table.keep(rows)


def _matching(table: Table, where: Where) -> Table:
    """The rows whose cells equal those of `where`; in text formats, read as they are written there."""
    rows = list(range(len(table)))
    for column, value in where.items():
        if column not in table.columns:  # labels of a test that are not known
            continue
        cells = table.columns[column]
        wanted = str(value) if table.is_text else value
        rows = [
            row for row in rows if cells[row] == wanted and isinstance(cells[row], bool) == isinstance(wanted, bool)
        ]
        if not rows:
            found = sorted({describe(cell) for cell in cells})
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise DataError(
                f"{table.path}: no row has {describe(wanted)} in column {column!r} beside the values before it; "
                f"the column holds {', '.join(found[:8])}{more}."
            )
    return table.keep(rows) if where else table


def _packaged_file(package: str, file: str) -> Path:
    """Where a file of an installed package lies. The package itself is not imported."""
    spec = importlib.util.find_spec(package) if package.isidentifier() and package != "__main__" else None
    folders = list((spec.submodule_search_locations if spec else None) or [])
    if not folders:
        raise DataError(
            f"data: the Python package {package!r} is not installed here. Install it; the quick start's packages "
            'come with pip install "hf_distill[quickstart]"'
        )
    paths = [Path(folder, file) for folder in folders]
    inside = [path for path in paths for folder in folders if path.resolve().is_relative_to(Path(folder).resolve())]
    if not inside:
        raise DataError(f"data: {file!r} leaves the package {package!r}; name a file inside it.")
    return next((path for path in inside if path.is_file()), inside[0])
