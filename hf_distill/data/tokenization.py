"""Texts to token ids."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_distill.errors import DataError

logger = logging.getLogger(__name__)


def tokenize(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    text_columns: Sequence[str],
    *,
    max_length: int | None = None,
    position_limits: Collection[int | None] = (),
    input_names: Collection[str] = (),
) -> Dataset:
    """Replaces the columns of a split by the tokenizer's, `labels` (from `label`) and `length`, the number of tokens.

    Two text columns are encoded as a pair, and cut from the longer one. Texts are cut to the least of `max_length`,
    the tokenizer's own limit and `position_limits` (those of the models that will read them; None is no limit).
    `input_names` are inputs that a reader of the batch has beyond those the tokenizer gives by itself:
    `token_type_ids` for a BERT teacher beside a DistilBERT student, `special_tokens_mask` for an objective.

    Errors: DataError for no rows, a missing column, a limit that leaves no room for text, and labels that are all
    -100.
    """
    _check_split(dataset, text_columns)
    limit = _limit(tokenizer, max_length, position_limits, is_pair=len(text_columns) == 2)
    options: dict[str, Any] = {"truncation": limit is not None, "max_length": limit}
    if "token_type_ids" in input_names:
        options["return_token_type_ids"] = True
    if "special_tokens_mask" in input_names:
        options["return_special_tokens_mask"] = True

    def encode(batch: dict[str, list[Any]]) -> dict[str, Any]:
        encoded = dict(tokenizer(*(batch[column] for column in text_columns), **options))
        encoded["length"] = [len(ids) for ids in encoded["input_ids"]]
        if "label" in batch:
            encoded["labels"] = batch["label"]
        return encoded

    encoded = dataset.map(encode, batched=True, remove_columns=dataset.column_names, desc="Tokenising")
    lengths = encoded["length"][:]
    if 0 in lengths:
        raise DataError(
            f"tokenize: row {lengths.index(0)} (counted from 0) has an empty text, and {type(tokenizer).__name__} "
            "adds no special tokens, so nothing would be left to read; remove such rows."
        )
    return encoded


def _check_split(dataset: Dataset, text_columns: Sequence[str]) -> None:
    if not len(dataset):
        raise DataError("tokenize: the split holds no rows.")
    missing = [column for column in text_columns if column not in dataset.column_names]
    if missing:
        raise DataError(f"tokenize: no column {missing[0]!r}; the split has {', '.join(dataset.column_names)}.")
    if "label" in dataset.column_names and all(label == -100 for label in dataset["label"][:]):
        raise DataError("tokenize: every label of the split is -100, which counts for nothing.")


def _limit(
    tokenizer: PreTrainedTokenizerBase, max_length: int | None, position_limits: Collection[int | None], is_pair: bool
) -> int | None:
    """The least of the limits; None where there is none (tokenizers without one report 1e30)."""
    limits = [limit for limit in (tokenizer.model_max_length, *position_limits) if limit is not None and limit < 1e9]
    least = min([*limits, *([] if max_length is None else [max_length])], default=None)
    if max_length is not None and least != max_length:
        logger.warning("max_length %d is cut to %s, the limit of the tokenizer or of a model.", max_length, least)
    room = tokenizer.num_special_tokens_to_add(pair=is_pair)
    if least is not None and least <= room:
        raise DataError(
            f"tokenize: {least} tokens leave no room for text beside the {room} special ones; raise max_length."
        )
    return least
