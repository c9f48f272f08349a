"""Several documents in one row, each read as if it stood alone, and the batches of such rows."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor

from hf_distill.objectives.hypotheses import PLACE, SCORES
from hf_distill.tasks import DOCUMENTS, IGNORED

POSITIONS = "position_ids"
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
    """The rows put together by `best_fit` into rows of at most `max_length` tokens, with `position_ids`, which start
    anew with every document. The first token of a document has no label, so that none is predicted across documents.
    """
    columns = {name: rows[name][:] for name in ("input_ids", "labels")}
    found: dict[str, list[list[int]]] = {name: [] for name in ("input_ids", "labels", POSITIONS)}
    for row in best_fit([len(ids) for ids in columns["input_ids"]], max_length):
        found["input_ids"].append([token for i in row for token in columns["input_ids"][i]])
        found["labels"].append([label for i in row for label in (IGNORED, *columns["labels"][i][1:])])
        found[POSITIONS].append([place for i in row for place in range(len(columns["input_ids"][i]))])
    lengths = [len(ids) for ids in found["input_ids"]]
    return Dataset.from_dict({**found, "attention_mask": [[1] * length for length in lengths], "length": lengths})


class PaddedRows:
    """A collator of rows of unequal length: their columns of numbers, padded on the right, `input_ids` with
    `pad_token`.

    Where the rows have `position_ids`, `document_ids` `[batch, length]` says which document of its row each token is
    of, from 1; 0 is padding. The columns of `nbest_kd` are put together as they are.
    """

    def __init__(self, pad_token: int) -> None:
        self.fill = {**_FILL, "input_ids": pad_token}

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of int64 tensors `[rows, length]`, but for the columns of `nbest_kd`."""
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
        beside = {name: torch.tensor([row[name] for row in rows]) for name in (PLACE, SCORES) if name in rows[0]}
        return {**found, **beside}
