"""The pieces of a batch that a teacher reads apart from each other: its rows, or the documents of packed rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_distill.errors import CacheMismatch, DataError
from hf_distill.tasks import DOCUMENTS, IGNORED
from hf_distill.teachers.cache.keys import (
    MASK,
    POSITIONS,
    SEGMENTS,
    TARGET_IDS,
    TARGET_MASK,
    Inputs,
    add_to,
    columns_read,
    digest_of_piece,
    row_keys,
    row_lengths,
)


@dataclass(frozen=True)
class Pieces:
    """The pieces of a batch, in the order of their places: `keys` say what the teacher reads of each; it is in the row
    `rows` of the batch, from the place `starts` on, and `lengths` long. A row of the batch has `width` places.

    Three kinds of batches are told apart.

    - A row is one piece, from its first token to its last.
    - A packed row of a decoder that reads its documents apart is as many pieces as it has documents: by `document_ids`
      (from 1; 0 is padding), or where `position_ids` begin anew and there is no `attention_mask`, the form in which
      transformers keeps attention within each document (`DataCollatorWithFlattening`). Positions from 0 on are no part
      of a key, so that a document has the same one wherever it is packed, and alone.
    - A row of an encoder-decoder is one piece, whose places are those of the target text, and whose key is of both
      texts: of `decoder_input_ids` where the batch has them, else of the labels that they are made of.
    """

    keys: list[bytes]
    rows: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    width: int

    @classmethod
    def of(cls, batch: Mapping[str, Any], inputs: Inputs) -> Pieces:
        """The pieces of a batch, which is on the CPU.

        Raises: `CacheMismatch` for padding that is not behind a row's last token; `DataError` for columns that are
        missing, or not one whole number a token.
        """
        if inputs.targets:
            return _pairs(batch, inputs)
        if inputs.causal and (DOCUMENTS in batch or (POSITIONS in batch and MASK not in batch)):
            return _documents(batch, inputs)
        lengths = row_lengths(batch)
        keys = row_keys(batch, inputs, lengths)
        return cls(keys, np.arange(len(keys)), np.zeros_like(lengths), lengths, batch["input_ids"].shape[1])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def are_rows(self) -> bool:
        """Whether every row is one piece."""
        return len(self.rows) == 0 or bool((np.diff(self.rows) > 0).all())

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """The numbers of their places among all of the batch, row after row."""
        first = np.repeat(self.rows * self.width + self.starts, self.lengths)
        ends = np.cumsum(self.lengths)
        return first + np.arange(len(first)) - np.repeat(ends - self.lengths, self.lengths)

    def some(self, chosen: NDArray[np.bool_]) -> Pieces:
        """Those that are chosen."""
        keys = [key for key, wanted in zip(self.keys, chosen, strict=True) if wanted]
        return Pieces(keys, self.rows[chosen], self.starts[chosen], self.lengths[chosen], self.width)


def _documents(batch: Mapping[str, Any], inputs: Inputs) -> Pieces:
    read = dict(columns_read(batch, inputs))
    positions = read.pop(POSITIONS, None)
    texts = [*read.items()]
    numbers = _numbers(batch)
    width = numbers.shape[1]
    begins = np.ones(numbers.shape, dtype=bool)
    begins[:, 1:] = np.diff(numbers, axis=1) != 0
    rows, starts = np.nonzero(begins)
    ends = np.append(rows * width + starts, numbers.size)[1:]
    lengths = ends - (rows * width + starts)
    real = numbers[rows, starts] > 0
    rows, starts, lengths = rows[real], starts[real], lengths[real]
    left_out = SEGMENTS if inputs.first_segment else ""
    keys = []
    for row, start, length in zip(rows.tolist(), starts.tolist(), lengths.tolist(), strict=True):
        digest = digest_of_piece(texts, row, start, length, left_out)
        own = np.arange(length) if positions is None else positions[row, start : start + length]
        if (own != np.arange(length)).any():
            add_to(digest, POSITIONS, own)
        keys.append(digest.digest())
    return Pieces(keys, rows, starts, lengths, width)


def _numbers(batch: Mapping[str, Any]) -> NDArray[np.int64]:
    """The document of its row that each place is of, from 1, and 0 for padding. By positions a document begins at the
    first place of a row, and where a position does not follow the one before it."""
    if DOCUMENTS in batch:
        given: NDArray[np.int64] = batch[DOCUMENTS].to(torch.int64).numpy()
        if given.shape != tuple(batch["input_ids"].shape):
            raise DataError(
                f"{DOCUMENTS} are {given.shape}, and input_ids {tuple(batch['input_ids'].shape)}; give the number of "
                "its document for each token, and 0 for padding."
            )
        return given
    positions: NDArray[np.int64] = batch[POSITIONS].to(torch.int64).numpy()
    follows = np.diff(positions, axis=1, prepend=positions[:, :1] - 1) == 1
    numbers: NDArray[np.int64] = 1 + (~follows).cumsum(1)
    return numbers


def _pairs(batch: Mapping[str, Any], inputs: Inputs) -> Pieces:
    sources, (name, targets, lengths) = row_lengths(batch), _targets(batch)
    texts = columns_read(batch, inputs)
    keys = []
    for row, (source, target) in enumerate(zip(sources.tolist(), lengths.tolist(), strict=True)):
        digest = digest_of_piece(texts, row, 0, source)
        add_to(digest, name, targets[row, :target])
        keys.append(digest.digest())
    return Pieces(keys, np.arange(len(keys)), np.zeros_like(lengths), lengths, targets.shape[1])


def _targets(batch: Mapping[str, Any]) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """The column that the decoder's text comes from, the text, and the tokens of each row up to the last real one."""
    name = TARGET_IDS if TARGET_IDS in batch else "labels"
    if name not in batch:
        raise DataError(
            f"a teacher with a decoder beside its encoder reads the labels or {TARGET_IDS}, and the batch has only "
            f"{', '.join(batch)}. Give rows with labels, the ids of the target text, and a collator that keeps them."
        )
    targets: NDArray[np.int64] = batch[name].to(torch.int64).numpy()
    real = targets != IGNORED
    if name == TARGET_IDS:
        real = np.ones_like(real)
        if TARGET_MASK in batch:
            real = batch[TARGET_MASK].numpy() != 0
        elif "labels" in batch and batch["labels"].shape == batch[name].shape:
            real = batch["labels"].numpy() != IGNORED
    if len(targets) != len(batch["input_ids"]):
        raise DataError(
            f"{len(batch['input_ids'])} source texts have {len(targets)} target texts ({name}); have the collator "
            "give one for each."
        )
    from_behind = np.where(real.any(1), real[:, ::-1].argmax(1), targets.shape[1])
    lengths: NDArray[np.int64] = targets.shape[1] - from_behind
    if real.shape != targets.shape or (TARGET_MASK in batch and (real.sum(1) != lengths).any()):
        raise CacheMismatch(
            "a target text of the batch is padded on the left, or between its tokens; a teacher's cache holds texts "
            "that are padded on the right. Set tokenizer.padding_side = 'right'."
        )
    return name, targets, lengths
