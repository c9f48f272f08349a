"""A teacher's cache made of what a served model told, without the model."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.activations import Signal
from hf_distill.anatomy import Anatomy
from hf_distill.data.served_records import Counts, Records, Told
from hf_distill.errors import CacheMismatch, DataError
from hf_distill.tasks import IGNORED
from hf_distill.teachers.cache.filling import ShardBuffer
from hf_distill.teachers.cache.fingerprint import tokenizer_facts
from hf_distill.teachers.cache.folder import CONFIG, FORMAT, TABLES, CacheFolder, Facts, SignalFacts, check_same
from hf_distill.teachers.cache.keys import KEY, MASK, Inputs
from hf_distill.teachers.cache.pieces import Pieces
from hf_distill.teachers.cache.reader import CacheReader
from hf_distill.teachers.cache.recorded import AS_SERVED, RecordedTopK
from hf_distill.teachers.cache.skeleton import config_of, skeleton_of

logger = logging.getLogger(__name__)

LOGITS = Signal("logits")

NEARLY_ALL = 0.95
"""The share of the places with a record at which the server named at least as many tokens as are kept."""

MOST = 4096
"""Tokens of a place at most that are kept."""


@dataclass(frozen=True)
class Imported:
    """What an import found and wrote: the counts of the records, the tokens kept at each place, the places that have
    fewer and so no record, and the texts that were written; the others were there already, or came twice."""

    counts: Counts
    k: int
    short: int
    written: int
    facts: Facts


def import_records(
    paths: Sequence[Path],
    folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    config: PretrainedConfig,
    *,
    k: int | None = None,
    max_length: int | None = None,
) -> Imported:
    """Writes the records of some files (`served_records`) into a teacher's cache, from which a student of the same
    tokenizer trains as from any other. Broken off, it goes on where it was.

    `config` is that of the served model, of which the vocabulary and the class are read. `k` tokens of each place are
    kept with the probability of all others, by default as many as the server named at 95 % of the places; a place
    with fewer counts as one without a record. Texts are cut to `max_length` tokens, as those that are trained on.

    Raises: `DataError` for records that are none (`Records`), of several models, or without any; `CacheMismatch` for a
    folder with the cache of something else; `DistillationError` for a `k` out of range.
    """
    skeleton = _skeleton(config)
    num_classes = Anatomy.of(skeleton).shape.num_logits
    if len(tokenizer) > num_classes:
        raise DataError(
            f"the tokenizer has {len(tokenizer)} tokens, and the served model's configuration {num_classes}; give the "
            "tokenizer and the configuration of one model."
        )
    records = Records(paths, tokenizer, num_classes, max_length)
    model, numbers = _survey(records)
    kept = _most_common(numbers) if k is None else k
    codec = RecordedTopK(k=kept)
    codec.check(num_classes)
    codec.fit(torch.empty(0, num_classes))
    fingerprint = {
        "teacher": f"served: {model}",
        **tokenizer_facts(tokenizer),
        "max_length": max_length,
        "precision": AS_SERVED,
    }
    cache = CacheFolder(folder)
    with cache.claimed():
        facts = _facts(cache, fingerprint, codec, skeleton)
        written = _write(cache, facts, codec, records, Inputs.of(skeleton, facts.columns))
    return Imported(records.counts, kept, int(numbers[:kept].sum()), written, cache.facts())


def recorded_rows(records: Records) -> Iterator[dict[str, list[int]]]:
    """The texts of records as rows to train on, `input_ids`, `attention_mask` and `labels`, which are at the places
    that the server told of: for records whose texts the data set does not have as they are."""
    for told in records:
        labels = [IGNORED if law is None else token for law, token in zip(told.laws, told.input_ids, strict=True)]
        yield {"input_ids": told.input_ids, MASK: [1] * len(told.input_ids), "labels": labels}


def _skeleton(config: PretrainedConfig) -> PreTrainedModel:
    known: Any = AutoModelForCausalLM._model_mapping
    if type(config) not in known:
        raise DataError(
            f"the configuration is of a {config.model_type}, which is no causal language model; give that of the "
            "served model, or of a causal model with the same vocabulary."
        )
    return skeleton_of(known[type(config)].__name__, config.to_dict())


def _survey(records: Records) -> tuple[str, np.ndarray[Any, np.dtype[np.int64]]]:
    """The model that all records are of, and how many places have how many named tokens."""
    model: str | None = None
    numbers = np.zeros(MOST + 1, np.int64)
    for told in records:
        if told.model is not None and model not in (None, told.model):
            raise DataError(
                f"{told.place}: is of the model {told.model!r}, and those before of {model!r}. A cache holds one "
                "teacher: make one of the records of each model, in a folder of its own."
            )
        model = told.model or model
        for law in told.laws[1:]:
            if law is not None:
                numbers[min(len(law.ids), MOST)] += 1
    if not numbers.any():
        names = ", ".join(map(str, records.paths))
        raise DataError(
            f"{names}: no place has a record of the server; ask it for them (prompt_logprobs, or logprobs with "
            "top_logprobs)."
        )
    return model or "unknown", numbers


def _most_common(numbers: np.ndarray[Any, np.dtype[np.int64]]) -> int:
    """The largest number of tokens that nearly all places have."""
    at_least = numbers[::-1].cumsum()[::-1]
    return int(np.flatnonzero(at_least >= NEARLY_ALL * numbers.sum())[-1])


def _facts(cache: CacheFolder, fingerprint: dict[str, Any], codec: RecordedTopK, skeleton: PreTrainedModel) -> Facts:
    """The facts of the cache, which is begun where there is none."""
    width = codec.fitted_width()
    signal = SignalFacts(name=str(LOGITS), by_token=True, width=width, codec=codec.name, settings=codec.settings())
    if cache.exists():
        facts = cache.facts()
        check_same(facts.fingerprint, fingerprint, cache.path)
        if facts.signals != [signal]:
            raise CacheMismatch(
                f"{cache.path} holds {facts.signals[0].codec} {facts.signals[0].settings}, and {codec.name} "
                f"{codec.settings()} is to be written. Choose another folder, or give k."
            )
        return facts
    told = Facts(
        format=FORMAT,
        fingerprint=fingerprint,
        class_name=type(skeleton).__name__,
        columns=sorted(Anatomy.of(skeleton).accepts),
        signals=[signal],
        files={},
    )
    tables = {f"{LOGITS}/{name}": table for name, table in codec.state().items()}
    cache.begin(told, {CONFIG: json.dumps(config_of(skeleton), default=str).encode(), TABLES: save(tables)})
    return cache.facts()


def _write(cache: CacheFolder, facts: Facts, codec: RecordedTopK, records: Records, inputs: Inputs) -> int:
    """Writes the texts that are not there; how many."""
    reader, buffer = CacheReader(cache, facts), ShardBuffer(cache, {LOGITS})
    seen: set[bytes] = set()
    for told in records:
        ids = torch.tensor([told.input_ids])
        pieces = Pieces.of({"input_ids": ids, MASK: torch.ones_like(ids)}, inputs)
        (key,) = pieces.keys
        if key in seen or reader.find(np.frombuffer(key, KEY))[0] >= 0:
            continue
        seen.add(key)
        buffer.add([key], pieces.lengths, {f"{LOGITS}/{name}": part for name, part in _parts(told, codec).items()})
    buffer.flush()
    return len(seen)


def _parts(told: Told, codec: RecordedTopK) -> dict[str, Tensor]:
    """A text's parts: what is told of a token is the law of the place before it."""
    length, k = len(told.input_ids), codec.k
    ids, values = np.zeros((length, k), np.int64), np.full((length, k), -1.0)
    known = np.zeros(length, bool)
    for place, law in enumerate(told.laws[1:]):
        if law is not None and len(law.ids) >= k:
            ids[place], values[place], known[place] = law.ids[:k], law.log_probabilities[:k], True
    return codec.encode_records(*map(torch.from_numpy, (ids, values, known)))
