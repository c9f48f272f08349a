"""Which rows of a recipe's own data are used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from hf_distill.data.files import Table, find, read
from hf_distill.data.hub import load_splits, to_table
from hf_distill.data.selection import split, truncate
from hf_distill.data.text import SPLITS
from hf_distill.errors import DataError
from hf_distill.hub.record import DataFacts, SourceFacts
from hf_distill.recipe import Data, Recipe

Cut = Callable[[Dataset, float, float, int], Mapping[str, Dataset]]
"""From rows, the shares of validation and test, and a seed, to `train`, `validation`, `test`."""


def with_cuts(splits: dict[str, Dataset], data: Data, cut_rows: Cut = split) -> dict[str, Dataset]:
    """The splits, with those cut from train that the files do not bring.

    Raises: `DataError` where there is no validation split then.
    """
    cut = data.split
    shares = {} if cut is None else {name: getattr(cut, name) for name in cut_splits(data, splits)}
    if cut is not None and shares:
        parts = cut_rows(splits["train"], shares.get("validation", 0.0), shares.get("test", 0.0), cut.seed)
        splits = {**splits, **parts}
    if "validation" not in splits:
        raise DataError(
            "the data has no validation split; give a validation file (--validation_file), or data.split.validation "
            "in a recipe."
        )
    return splits


def cut_splits(data: Data, given: Iterable[str]) -> list[str]:
    """The splits that are cut from train, where those that are `given` lack them."""
    shares = {} if data.split is None else {name: getattr(data.split, name) for name in ("validation", "test")}
    return [name for name, share in shares.items() if share and name not in given]


def data_name(data: Data) -> str:
    """What the data are called: the training file, or the id on the Hub."""
    return data.hub.id if data.hub is not None else Path(_files(data)["train"]).name


def tables_of(data: Data, columns: Sequence[str], labels: Sequence[str]) -> dict[str, Table]:
    """The splits of files or of a data set of the Hub with these columns; a test need not have those of `labels`.

    Raises: `DataError` for what is missing or cannot be read.
    """
    return tables_with(data, lambda split: _columns(split, columns, labels))


def tables_with(data: Data, columns_of: Callable[[str], tuple[list[str], list[str]]]) -> dict[str, Table]:
    """The splits of files or of a data set of the Hub, each with the columns that it must have and those that it may
    have. Raises: as `tables_of`."""
    tables = {}
    if data.hub is None:
        for name, path in _files(data).items():
            tables[name] = read(path, *columns_of(name))
    else:
        hub = data.hub
        splits, commit = load_splits(hub.id, SPLITS, config=hub.config, revision=hub.revision)
        for name, rows in splits.items():
            tables[name] = to_table(rows, f"{hub.id}/{name}", *columns_of(name), commit=commit)
    if "train" not in tables:
        raise DataError(f"{data_name(data)}: there is no split train; it has {', '.join(tables) or 'none of ours'}.")
    return tables


def _columns(split: str, columns: Sequence[str], labels: Sequence[str]) -> tuple[list[str], list[str]]:
    """The columns that a split must have, and those that it may have."""
    return ([*columns], [*labels]) if split == "test" else ([*columns, *labels], [])


def _files(data: Data) -> dict[str, str]:
    if data.files is None:
        return {}
    return {split: path for split, path in data.files.model_dump().items() if path is not None}


def hub_facts(recipe: Recipe, commit: str | None) -> dict[str, str | None]:
    """The id and configuration of a data set of the Hub, and the commit that was read; where that is not known, the
    revision that was asked for. Nothing for files."""
    hub = None if recipe.data is None else recipe.data.hub
    return {} if hub is None else {"id": hub.id, "config": hub.config, "revision": commit or hub.revision}


def need_test(splits: Mapping[str, Dataset], name: str, predict: bool) -> None:
    """Raises: `DataError` if tests are to be predicted and there are none."""
    if predict and "test" not in splits:
        raise DataError(
            f"{name}: there is no test split to predict; give a test file (--test_file), or data.split.test in a "
            "recipe."
        )


def at_most(splits: Mapping[str, Dataset], recipe: Recipe) -> DatasetDict:
    """The first rows of each split, as many as the recipe allows."""
    most = {
        "train": recipe.max_samples.train,
        "validation": recipe.max_samples.validation,
        "test": recipe.max_samples.test,
    }
    return DatasetDict({name: truncate(rows, most[name.partition("_")[0]]) for name, rows in splits.items()})


def fingerprint(splits: Mapping[str, Dataset]) -> str:
    """SHA-256 over the rows that are used."""
    digest = hashlib.sha256()
    for name, dataset in splits.items():
        digest.update(name.encode() + b"\n")
        for batch in dataset.iter(batch_size=1000):
            for row in zip(*batch.values(), strict=True):
                digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def data_facts(
    recipe: Recipe, name: str, splits: Mapping[str, Dataset], sources: Mapping[str, str], hub: Mapping[str, Any]
) -> DataFacts:
    """What the record tells of rows; `hub` has the id and what else names a data set of the Hub, or nothing."""
    names = _file_names(recipe, sources)
    return DataFacts(
        name=name,
        **hub,
        sources={split: SourceFacts(name=names.get(split, split), sha256=sum_) for split, sum_ in sources.items()},
        sizes={split: len(rows) for split, rows in splits.items()},
        fingerprint=fingerprint(splits),
    )


def _file_names(recipe: Recipe, splits: Iterable[str]) -> dict[str, str]:
    if recipe.data is None:
        folder = recipe.dataset_dir
        found = {} if folder is None else {split: find(Path(folder), split) for split in splits}
        return {split: path.name for split, path in found.items() if path is not None}
    if recipe.data.package is not None:
        return {"train": Path(recipe.data.package.file).name}
    return {split: Path(path).name for split, path in _files(recipe.data).items()}
