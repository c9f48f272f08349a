"""Which row of a data set has the longest prompt, found in its columns, without collating them all."""

from __future__ import annotations

from typing import Any

import numpy as np
from datasets import Dataset, LargeList, List, Value
from numpy.typing import NDArray

from hf_distill.tasks import IGNORED, PROMPT_TOKENS

_AT_ONCE = 10_000
"""Rows that are looked at together."""


def longest_prompt(rows: Any, *, decoder: bool, prompt_tokens: int | None) -> int | None:
    """The number of the row, by the rules of `hf_distill.training.texts.prompts_of`; None where columns do not tell,
    as of a stream, or of rows that a transform makes."""
    if not isinstance(rows, Dataset) or rows.format["type"] == "custom" or not len(rows):
        return None
    column = _telling(rows, decoder=decoder and prompt_tokens is None)
    if column is None:
        return None
    parts = rows.select_columns(column).with_format("arrow").iter(_AT_ONCE)
    lengths = [_lengths(part[column].combine_chunks(), column) for part in parts]
    return int(np.concatenate(lengths).argmax())


def _telling(rows: Dataset, *, decoder: bool) -> str | None:
    """The column that tells how long prompts are: of a `decoder` alone its labels, unless a column says it."""
    wanted = (PROMPT_TOKENS, "labels") if decoder else ("input_ids",)
    return next((name for name in wanted if name in rows.features and _is_known(rows.features[name], name)), None)


def _is_known(feature: Any, name: str) -> bool:
    return isinstance(feature, Value if name == PROMPT_TOKENS else List | LargeList)


def _lengths(column: Any, name: str) -> NDArray[np.int64]:
    if name == PROMPT_TOKENS:
        return np.asarray(column, dtype=np.int64)
    offsets = np.asarray(column.offsets, dtype=np.int64)
    starts, ends = offsets[:-1], offsets[1:]
    if name == "input_ids":
        return np.asarray(ends - starts)
    labelled = np.flatnonzero(np.asarray(column.values) != IGNORED)
    first = np.append(labelled, ends[-1])[np.searchsorted(labelled, starts)]
    found: NDArray[np.int64] = np.minimum(first, ends) - starts
    return found
