"""Which rows of a data set are used: splits, repeated rows, the first n."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from hf_distill.errors import DataError

logger = logging.getLogger(__name__)


def split(
    dataset: Dataset, validation: float = 0.1, test: float = 0.1, seed: int = 0, stratify: bool = True
) -> DatasetDict:
    """Cuts `train`, `validation` and `test` from one data set; a fraction of 0 leaves that split out.

    The rows are shuffled with `seed` first, as files are often sorted by class. With `stratify`, each class is cut by
    the same fractions (rounded a class at a time, so that a class of one row stays in `train`); data without class
    labels are cut as one class. The result depends on `seed` and the rows' order alone.

    Errors: DataError where the fractions leave nothing to train on, or a split that was asked for would be empty.
    """
    fractions = {"validation": validation, "test": test}
    if not all(0 <= fraction < 1 for fraction in fractions.values()) or validation + test >= 1:
        raise DataError(f"split: validation {validation} and test {test} must lie in [0, 1), and together below 1.")
    random = np.random.default_rng(seed)
    has_classes = stratify and isinstance(dataset.features.get("label"), ClassLabel)
    classes = np.asarray(dataset["label"][:]) if has_classes else np.zeros(len(dataset), dtype=np.int64)
    parts: dict[str, list[np.ndarray]] = {"train": [], "validation": [], "test": []}
    for label in np.unique(classes):
        rows = random.permutation(np.flatnonzero(classes == label))
        start = 0
        for name, fraction in fractions.items():
            end = start + round(fraction * len(rows))
            parts[name].append(rows[start:end])
            start = end
        parts["train"].append(rows[start:])
    chosen = {name: random.permutation(np.concatenate(rows)) for name, rows in parts.items() if fractions.get(name, 1)}
    for name, rows in chosen.items():
        if not len(rows):
            raise DataError(
                f"split: {fractions.get(name, 'the rest')} of {len(dataset)} rows leaves {name!r} empty: shares are "
                f"rounded class by class, of {len(np.unique(classes))}. Take a larger share, or give more rows."
            )
    return DatasetDict({name: dataset.select(rows) for name, rows in chosen.items()})


def deduplicate(dataset: Dataset, columns: Sequence[str]) -> Dataset:
    """Keeps the first of the rows whose texts are equal, and none of them where their labels differ.

    Only letters (with their marks) and digits count, in either case; a text that has none counts as it is.

    Errors: DataError where nothing is left.
    """
    cells = dataset["label"][:] if "label" in dataset.column_names else [None] * len(dataset)
    labels = [tuple(cell) if isinstance(cell, list) else cell for cell in cells]
    texts = zip(*([_essence(text) for text in dataset[column][:]] for column in columns), strict=True)
    seen: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(texts):
        seen.setdefault(key, []).append(row)
    consistent = [rows for rows in seen.values() if len({labels[row] for row in rows}) == 1]
    kept = [rows[0] for rows in consistent]
    contradictory = len(dataset) - sum(map(len, consistent))
    if not kept:
        raise DataError(f"deduplicate: each of the {len(dataset)} rows contradicts another one; nothing is left.")
    repeated = len(dataset) - len(kept) - contradictory
    logger.info(
        "Of %d rows, %d were repeated, %d had different labels; %d are left.",
        len(dataset),
        repeated,
        contradictory,
        len(kept),
    )
    return dataset.select(kept)


def truncate(dataset: Dataset, max_samples: int | None) -> Dataset:
    """The first `max_samples` rows; all of them for None, or where there are no more.

    Warns in the log where classes are lost by that. Errors: DataError for a number below 1.
    """
    if max_samples is None or max_samples >= len(dataset):
        return dataset
    if max_samples < 1:
        raise DataError(f"max_samples is {max_samples}; it must be at least 1, or absent for all rows.")
    first = dataset.select(range(max_samples))
    if isinstance(dataset.features.get("label"), ClassLabel):
        before, after = len(set(dataset["label"][:])), len(set(first["label"][:]))
        if after < before:
            logger.warning("The first %d rows hold %d of %d classes; is the file sorted?", max_samples, after, before)
    return first


def _essence(text: str) -> str:
    if text.isascii():
        letters = re.sub(r"[^a-z0-9]+", "", text.lower())
    else:
        folded = unicodedata.normalize("NFKC", text).casefold()
        letters = "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")
    return letters or text
