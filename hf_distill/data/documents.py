"""Several documents in one row, each read as if it stood alone, and the batches of such rows."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset, Features, List, Value
from datasets.fingerprint import Hasher
from torch import Tensor

from hf_distill.objectives.hypotheses import PLACE, SCORES
from hf_distill.tasks import DOCUMENTS, IGNORED, PROMPT_TOKENS

POSITIONS = "position_ids"
_FORM = "packed, 1"
"""Of the rows that `packed` writes: another form has another name, so that older files are not read as it."""
_FILL = {"attention_mask": 0, "labels": IGNORED, POSITIONS: 0}


def best_fit(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Puts documents of these lengths into rows of `size` tokens: the numbers of the documents of each row.

    The longest first, each into the fullest row that it fits into, else into a new one (best-fit decreasing, at most
    11/9 of the fewest rows and one more; Johnson, 1973). No document is cut; one that is longer than a row has one of
    its own. Equal lengths keep their order.
    """
    rows: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    rooms: list[int] = []
    """The keys of `with_room`, in order."""
    for document in np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable").tolist():
        length = lengths[document]
        place = bisect_left(rooms, length)
        room = size
        if place == len(rooms):
            row = len(rows)
            rows.append([])
        else:
            room = rooms[place]
            row = with_room[room].pop()
            if not with_room[room]:
                del with_room[room], rooms[place]
        rows[row].append(document)
        if (left := room - length) > 0:
            if left not in with_room:
                insort(rooms, left)
            with_room.setdefault(left, []).append(row)
    return rows


def packed(rows: Dataset, max_length: int) -> Dataset:
    """The rows, whose tokens `length` counts, put together by `best_fit` into rows of at most `max_length` tokens,
    with `position_ids`, which start anew with every document. The first token of a document has no label, so that
    none is predicted across documents.

    They are written beside the caches of `datasets` and read by memory map, once for all processes: what is held of
    each document meanwhile is its length.
    """
    numbers = List(Value("int64"))
    columns = dict.fromkeys(("input_ids", "labels", POSITIONS, "attention_mask"), numbers)
    made = Dataset.from_generator(
        _joined,
        features=Features({**columns, "length": Value("int64")}),
        gen_kwargs={"rows": rows.with_format("numpy"), "max_length": max_length},
        fingerprint=Hasher.hash((_FORM, rows._fingerprint, max_length)),
    )
    assert isinstance(made, Dataset)
    return made


def _joined(rows: Dataset, max_length: int) -> Iterator[dict[str, Any]]:
    lengths = list(map(int, rows["length"]))
    for documents in best_fit(lengths, max_length):
        found = rows[documents]
        labels = [np.concatenate([[IGNORED], each[1:]]) for each in found["labels"]]
        length = sum(lengths[i] for i in documents)
        yield {
            "input_ids": np.concatenate(list(found["input_ids"])),
            "labels": np.concatenate(labels),
            POSITIONS: np.concatenate([np.arange(lengths[i]) for i in documents]),
            "attention_mask": np.ones(length, dtype=np.int64),
            "length": length,
        }


class PaddedRows:
    """A collator of rows of unequal length: their columns of numbers, padded on the right, `input_ids` with
    `pad_token`.

    Where the rows have `position_ids`, `document_ids` `[batch, length]` says which document of its row each token is
    of, from 1; 0 is padding. The columns of `nbest_kd`, and `prompt_tokens`, are put together as they are.
    """

    def __init__(self, pad_token: int) -> None:
        self.fill = {**_FILL, "input_ids": pad_token}

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of int64 tensors `[rows, length]`, but for the columns of `nbest_kd` and `prompt_tokens`."""
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {name: np.full((len(rows), longest), fill) for name, fill in self.fill.items() if name in rows[0]}
        batch["attention_mask"] = np.zeros((len(rows), longest), dtype=np.int64)
        for i, row in enumerate(rows):
            end = len(row["input_ids"])
            for name, values in batch.items():
                values[i, :end] = 1 if name == "attention_mask" else row[name]
        if POSITIONS in batch:
            real = batch["attention_mask"]
            batch[DOCUMENTS] = (((batch[POSITIONS] == 0) & (real == 1)).cumsum(1) * real).astype(np.int64)
        found = {name: torch.from_numpy(values.astype(np.int64)) for name, values in batch.items()}
        kept = [name for name in (PLACE, SCORES, PROMPT_TOKENS) if name in rows[0]]
        beside = {name: torch.tensor([row[name] for row in rows]) for name in kept}
        return {**found, **beside}
