"""What a teacher reads of a row, as a key of 16 bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import CacheMismatch, DataError

KEY_BYTES = 16
KEY = np.dtype(f"S{KEY_BYTES}")
"""Keys in an array. Arrays of bytes take zeros at the end for padding; all keys have the same length, so none is."""

MASK, POSITIONS = "attention_mask", "position_ids"

TARGET_IDS, TARGET_MASK = "decoder_input_ids", "decoder_attention_mask"
"""What a decoder beside an encoder reads, where it is not made of the labels."""

NO_KEY = frozenset(
    {"labels", "label", "label_ids", "start_positions", "end_positions", "next_sentence_label", MASK, "use_cache"}
    | {TARGET_IDS, TARGET_MASK}
)
"""Inputs of a model that are no part of what it reads of a text: its targets, and where the text ends."""

SEGMENTS = "token_type_ids"


@dataclass(frozen=True)
class Inputs:
    """What a teacher reads of a row: the columns of its `names`; `first_segment` says whether it takes all segment ids
    to be 0 where it is given none, `targets` whether it reads a target text beside the source, `causal` whether it is
    a decoder alone, which reads the documents of a packed row apart where their positions say so."""

    names: frozenset[str]
    first_segment: bool = False
    targets: bool = False
    causal: bool = False

    @classmethod
    def of(cls, model: PreTrainedModel, names: Iterable[str]) -> Inputs:
        """Of a model, or its skeleton. One with a table of segments, or a buffer of them, takes the first of its
        segments for granted. Another, as GPT-2, may add the embedding of token 0 for a segment id of 0, and nothing
        where there is none."""
        parts = [*dict(model.named_modules()), *dict(model.named_buffers())]
        read, stacks = frozenset(names), Anatomy.of(model).shape.stacks
        return cls(
            read,
            any(part.endswith(("token_type_embeddings", SEGMENTS)) for part in parts),
            targets=TARGET_IDS in read,
            causal=POSITIONS in read and len(stacks) == 1 and stacks[""].causal,
        )


def row_lengths(batch: Mapping[str, Any]) -> NDArray[np.int64]:
    """`[rows]`, the tokens of each row.

    Raises: `CacheMismatch` where a row does not begin with its first token, or has holes: positions, and with them
    what a teacher shows, would depend on the padding; `DataError` for a batch without token ids.
    """
    if "input_ids" not in batch:
        raise DataError(
            f"a teacher's cache is keyed by input_ids, and the batch has only {', '.join(batch)}. Give rows of "
            "token ids (input_ids), and a collator that keeps them, or train with the teacher itself."
        )
    ids = batch["input_ids"]
    mask = batch.get(MASK)
    if mask is None:
        return np.full(ids.shape[0], ids.shape[1], dtype=np.int64)
    real = mask.numpy() != 0
    lengths: NDArray[np.int64] = real.sum(1)
    if real.shape != tuple(ids.shape) or (real != (np.arange(real.shape[1]) < lengths[:, None])).any():
        raise CacheMismatch(
            "a row of the batch is padded on the left, or between its tokens; a teacher's cache holds rows that are "
            "padded on the right. Set tokenizer.padding_side = 'right'."
        )
    return lengths


def row_keys(batch: Mapping[str, Any], inputs: Inputs, lengths: NDArray[np.int64]) -> list[bytes]:
    """The key of each row: a digest (BLAKE2b, 128 bits) of its columns among `inputs`, those of the teacher, without
    the padding. The batch is on the CPU.

    Two rows have the same key where the teacher reads the same of both, whatever batch they are in. Segment ids that
    are all 0 count as absent where the teacher takes them so (`Inputs.first_segment`).

    Raises: `DataError` for a column that is not one whole number a token.
    """
    read = columns_read(batch, inputs)
    left_out = SEGMENTS if inputs.first_segment else ""
    return [digest_of_piece(read, row, 0, int(length), left_out).digest() for row, length in enumerate(lengths)]


def columns_read(batch: Mapping[str, Any], inputs: Inputs) -> list[tuple[str, NDArray[np.int64]]]:
    """What the teacher reads of the texts of a batch, by column.

    Raises: `DataError` for a column that is not one whole number a token.
    """
    shape = tuple(batch["input_ids"].shape)
    read: list[tuple[str, NDArray[np.int64]]] = []
    for name in sorted(inputs.names - NO_KEY):
        values = batch.get(name)
        if values is None:
            continue
        if not isinstance(values, Tensor) or values.is_floating_point() or tuple(values.shape) != shape:
            found = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
            raise DataError(
                f"the teacher reads the column {name!r}, which is {found}; a cache is keyed by whole numbers of the "
                f"shape of input_ids, {shape}. Leave the column out, or train with the teacher itself."
            )
        read.append((name, values.to(torch.int64).numpy()))
    return read


def digest_of_piece(
    read: list[tuple[str, NDArray[np.int64]]], row: int, start: int, length: int, left_out: str = ""
) -> Any:
    """The digest of `length` places of a row; `left_out`: the column that is no part of it where it is 0
    throughout."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for name, values in read:
        used = values[row, start : start + length]
        if name != left_out or used.any():
            add_to(digest, name, used)
    return digest


def add_to(digest: Any, name: str, used: NDArray[np.int64]) -> None:
    """Adds a column to a digest."""
    digest.update(f"{name} {len(used)}\n".encode())
    digest.update(used.astype("<i8", copy=False).tobytes())
