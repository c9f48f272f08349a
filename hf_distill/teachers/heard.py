"""A teacher that hears, and what it took each training sound for, kept in a folder as `generated` keeps texts.

A hypothesis has no text; its `ids` are symbols, and its `score` is log P of these over all their alignments.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from datasets import Dataset
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import PreTrainedModel

from hf_distill.errors import DataError, DistillationError
from hf_distill.objectives.hypotheses import SCORES, TEXTS
from hf_distill.teachers.cache.fingerprint import teacher_digest
from hf_distill.teachers.ctc_search import ctc_hypotheses
from hf_distill.teachers.generated import Generated
from hf_distill.teachers.generation import Hypothesis

HEARD = ("input_values", "input_features")
"""The columns of sounds, as models call them."""

Collate = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


class SoundSearch(BaseModel):
    """How a teacher hears: so many `beams`, of which the best `hypotheses` are kept."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    beams: int = Field(default=16, ge=1)
    hypotheses: int = Field(default=8, ge=1)


def heard_of(
    folder: str | os.PathLike[str],
    model: PreTrainedModel,
    rows: Dataset,
    collate: Collate,
    search: SoundSearch | None = None,
    *,
    batch_size: int = 16,
) -> Generated:
    """What `model` takes the sounds of `rows` for, out of `folder`; what is not there yet is searched for, in batches
    of `collate`. `Generated.rows(digest_of_sounds(rows))` gives it. Several processes search together.

    Raises: `CacheMismatch` for a folder of another teacher, other sounds or another search, naming what differs;
    `IncompatiblePair` for a model without a CTC head; `DataError` without sounds; `DistillationError` for more
    hypotheses than beams.
    """
    search = search or SoundSearch()
    if search.hypotheses > search.beams:
        raise DistillationError(
            f"{search.hypotheses} hypotheses are asked for and there are {search.beams} beams; give as many beams."
        )
    wanted = {"teacher": teacher_digest(model), "sources": digest_of_sounds(rows), **search.model_dump()}
    return Generated.kept(
        folder,
        wanted,
        len(rows),
        lambda start, end: _search(model, rows.select(range(start, end)), collate, search, batch_size),
    )


def _search(
    model: PreTrainedModel, rows: Dataset, collate: Collate, search: SoundSearch, batch_size: int
) -> Iterator[list[Hypothesis]]:
    name = sound_column(rows)
    for first in range(0, len(rows), batch_size):
        items = [{name: row[name]} for row in rows.select(range(first, min(first + batch_size, len(rows))))]
        batch = {key: each.to(model.device) for key, each in collate(items).items() if isinstance(each, Tensor)}
        for found in ctc_hypotheses(model, batch, beams=search.beams, hypotheses=search.hypotheses):
            pairs: Any = zip(found[TEXTS], found[SCORES], strict=True)
            yield [Hypothesis("", tuple(symbols), score, True) for symbols, score in pairs]


def digest_of_sounds(rows: Dataset) -> str:
    """SHA-256 over what a model reads of the sounds of rows, in their order."""
    digest, name = hashlib.sha256(), sound_column(rows)
    for batch in rows.select_columns([name]).iter(batch_size=100):
        for sound in batch[name]:
            values = np.asarray(sound, dtype="<f4")
            digest.update(f"{values.shape}\n".encode() + values.tobytes())
    return digest.hexdigest()


def sound_column(rows: Dataset) -> str:
    """The column of the sounds. Raises: `DataError` for rows without sounds, or none."""
    found = [name for name in HEARD if name in rows.column_names]
    if not found or not len(rows):
        raise DataError(
            f"{len(rows)} rows with the columns {', '.join(rows.column_names)}: sounds are in {' or '.join(HEARD)}."
        )
    return found[0]
