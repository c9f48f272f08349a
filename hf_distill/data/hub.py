"""Data sets of the Hub as tables."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, LargeList, List, load_dataset_builder
from datasets.exceptions import DatasetsError
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import REGEX_COMMIT_HASH

from hf_distill.data.files import Table, choices
from hf_distill.errors import DataError

HUB_ERRORS: tuple[type[Exception], ...] = (
    HfHubHTTPError.__bases__[0], OSError, ValueError, RuntimeError, DatasetsError,
)  # fmt: skip
"""What reading from the Hub raises. The first is the error of the HTTP library that its client was built on, which may
be no OSError where there is no connection; RuntimeError is that of data sets that bring code."""


def download(
    hub_id: str, config: str | None, revision: str | None, cache_dir: str | None = None
) -> tuple[DatasetDict, str | None]:
    """The splits of a data set of the Hub, and the commit that they were read at, which is the builder's hash; None
    where that is no commit. Where there is no way to the Hub, `datasets` reads what it downloaded last, at whatever
    commit that was.

    Errors: OSError where that is another commit than the one asked for; those of `datasets`, see `HUB_ERRORS`.
    """
    builder = load_dataset_builder(hub_id, config, revision=revision, cache_dir=cache_dir)
    commit = builder.hash if REGEX_COMMIT_HASH.fullmatch(builder.hash or "") else None
    if revision is not None and REGEX_COMMIT_HASH.fullmatch(revision) and commit != revision:
        raise OSError(f"there is no way to the Hub, and what was downloaded last is commit {commit}")
    builder.download_and_prepare()
    return builder.as_dataset(), commit


def load_splits(
    hub_id: str, splits: Sequence[str], *, config: str | None = None, revision: str | None = None
) -> tuple[dict[str, Dataset], str | None]:
    """Those of `splits` that a data set of the Hub has, and their commit, as `download` has it.

    Errors: DataError where it cannot be loaded, and for a folder, which has no name on the Hub.
    """
    if Path(hub_id).exists():
        raise DataError(
            f"{hub_id} is a folder or a file here, and the name of a data set on the Hub was expected; give its files "
            "(--train_file, data.files)."
        )
    try:
        loaded, commit = download(hub_id, config, revision)
    except HUB_ERRORS as error:
        raise DataError(
            f"{hub_id}, configuration {config or 'default'}, revision {revision or 'main'}, could not be loaded: "
            f"{error}. Where there is no way to the Hub, give files."
        ) from error
    return {split: loaded[split] for split in splits if split in loaded}, commit


def to_table(
    dataset: Dataset, name: str, columns: Sequence[str], optional: Sequence[str] = (), commit: str | None = None
) -> Table:
    """`columns` of a split, and those of `optional` that it has, as Python values, class labels as their names; `name`
    is the split's in messages, and `commit` that of its data set.

    Errors: DataError for a missing column and no rows.
    """
    for column in columns:
        if column not in dataset.column_names:
            raise DataError(f"{name}: no column {column!r}; {choices(column, dataset.column_names)}.")
    if not len(dataset):
        raise DataError(f"{name}: holds no rows.")
    chosen = list(dict.fromkeys([*columns, *(column for column in optional if column in dataset.column_names)]))
    rows = dataset.select_columns(chosen)
    cells = {column: _named(rows[column][:], rows.features[column]) for column in chosen}
    classes = {column: _classes(rows.features[column]) for column in chosen}
    return Table(
        Path(name),
        cells,
        list(range(1, len(rows) + 1)),
        "row",
        is_text=False,
        sha256=digest(rows),
        class_names={column: names for column, names in classes.items() if names},
        commit=commit,
    )


def _classes(feature: Any) -> tuple[str, ...]:
    """The names of class ids, also in lists; none for what has no classes."""
    if isinstance(feature, List | LargeList):
        return _classes(feature.feature)
    return tuple(feature.names) if isinstance(feature, ClassLabel) else ()


def _named(cells: list[Any], feature: Any) -> list[Any]:
    """Cells with names in place of class ids, also in lists; None for -1, a label that is kept secret."""
    if isinstance(feature, List | LargeList):
        return [None if cell is None else _named(cell, feature.feature) for cell in cells]
    if isinstance(feature, ClassLabel):
        return [None if cell is None or cell < 0 else feature.names[cell] for cell in cells]
    return cells


def digest(dataset: Dataset) -> str:
    """SHA-256 over the rows, one JSON list a line: it depends on neither the file format nor the version of a
    library."""
    found = hashlib.sha256()
    for batch in dataset.iter(batch_size=1000):
        for row in zip(*batch.values(), strict=True):
            found.update(json.dumps(row, default=str).encode() + b"\n")
    return found.hexdigest()
