"""Texts with a text to make of each: translations, summaries and the like."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict
from transformers import PreTrainedTokenizerBase

from hf_distill.data.files import Table, check_text, commit_of, sums
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

SOURCE, TARGET = "source", "target"
_CUT = "target_is_cut"


@dataclass(frozen=True)
class PairedTexts:
    """The splits, checked: `source` and `target`. `sources` maps each split to the SHA-256 of what it was read from;
    `commit` is that of a data set of the Hub."""

    splits: DatasetDict
    sources: Mapping[str, str]
    commit: str | None = None


def paired_texts(tables: Mapping[str, Table], source_column: str, target_column: str) -> PairedTexts:
    """Checks the rows of the splits.

    Errors: DataError, with file, line and column, for a cell that is no text, or an empty one.
    """
    splits = {}
    for name, table in tables.items():
        for column in (source_column, target_column):
            check_text(table, column)
            empty = next((row for row, text in enumerate(table.columns[column]) if not text.strip()), None)
            if empty is not None:
                raise DataError(f"{table.place(empty, column)}: is empty; there is nothing to read, or to write.")
        splits[name] = Dataset.from_dict({SOURCE: table.columns[source_column], TARGET: table.columns[target_column]})
    return PairedTexts(DatasetDict(splits), sums(tables), commit_of(tables))


def tokenize_pairs(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prefix: str,
    max_length: int,
    max_target_length: int,
    kept: Sequence[str] = (),
) -> Dataset:
    """`input_ids` and `attention_mask` of the sources behind `prefix`, `labels` of the targets, and `length`, that of
    the longer one; each cut to its longest. Columns of `kept` stay.

    How many targets are cut is said in the log. Of a text that a teacher wrote, the score stays that of the whole.
    """

    def read(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        sources = tokenizer([prefix + text for text in batch[SOURCE]], truncation=True, max_length=max_length)
        targets = tokenizer(text_target=batch[TARGET], truncation=True, max_length=max_target_length)["input_ids"]
        lengths = [max(len(ids), len(labels)) for ids, labels in zip(sources["input_ids"], targets, strict=True)]
        found = {name: sources[name] for name in ("input_ids", "attention_mask")}
        cut = _cut(batch[TARGET], targets, max_target_length, tokenizer)
        return {**found, "labels": targets, "length": lengths, _CUT: cut}

    dropped = [name for name in rows.column_names if name not in kept]
    made = rows.map(read, batched=True, remove_columns=dropped, desc="tokenizing")
    number = sum(made[_CUT][:])
    if number:
        logger.warning(
            "%d of %d targets are longer than %d tokens and are cut; raise max_target_length, or max_length if that "
            "is what they are cut to",
            number,
            len(made),
            max_target_length,
        )
    return made.remove_columns(_CUT)


def _cut(
    texts: Sequence[str], targets: Sequence[Sequence[int]], longest: int, tokenizer: PreTrainedTokenizerBase
) -> list[bool]:
    """Which targets are longer than what was kept of them; those that are shorter are whole."""
    full = [i for i, ids in enumerate(targets) if len(ids) >= longest]
    whole = tokenizer(text_target=[texts[i] for i in full], verbose=False)["input_ids"] if full else []
    longer = {i for i, ids in zip(full, whole, strict=True) if len(ids) > longest}
    return [i in longer for i in range(len(targets))]
