"""Runs a teacher over the rows that a cache has not, and writes down what it shows."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets.utils import tqdm
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_distill.activations import Signal
from hf_distill.errors import CacheMismatch
from hf_distill.ranks import agreed, place, wait_for_everyone
from hf_distill.teachers.cache.codecs import Codec, Head
from hf_distill.teachers.cache.fingerprint import check_plain, teacher_digest, tokenizer_digest
from hf_distill.teachers.cache.folder import (
    CONFIG,
    FORMAT,
    HEAD,
    TABLES,
    CacheFolder,
    Facts,
    SignalFacts,
    check_same,
)
from hf_distill.teachers.cache.keys import Inputs, row_keys, row_lengths
from hf_distill.teachers.cache.plan import (
    FINAL,
    LOGITS,
    check_holds,
    check_read,
    codec_of,
    signal_named,
    stored_signals,
)
from hf_distill.teachers.cache.reader import CacheReader
from hf_distill.teachers.cache.scanning import Scan, Source, scan
from hf_distill.teachers.cache.shards import shard_bytes
from hf_distill.teachers.cache.signals import Written, rows_of, tensor_of, written_signals
from hf_distill.teachers.cache.skeleton import config_of, head_parameters, skeleton_of
from hf_distill.teachers.frozen import Frozen

logger = logging.getLogger(__name__)

SHARD_BYTES = 2**26
SHARD_SECONDS = 60.0
"""A shard is written when it has so many bytes, or when more of the teacher's time would be lost with it."""

SAMPLE_ROWS, SAMPLE_BATCH = 256, 32
"""Rows of the data on which tables of codecs are made, and how many at a time."""

SAMPLE_TOKENS, SAMPLE_NUMBERS = 2**11, 2**22
"""The most rows, and numbers, of a signal that are taken of each batch for that."""


@dataclass(frozen=True)
class Order:
    """What is to be written: the signals, the codec asked for, whether the head is kept, and the fingerprint."""

    signals: frozenset[Signal]
    codec: Codec | None
    with_head: bool
    fingerprint: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        teacher: Frozen,
        signals: frozenset[Signal],
        codec: Codec | None,
        tokenizer: Any,
        max_length: int | None,
    ) -> Order:
        """The order for what objectives read of a teacher, which is placed as it will run.

        Raises: `IncompatiblePair` for signals that no cache holds, and for a teacher with an adapter;
        `DistillationError` where nothing is read.
        """
        check_read(signals)
        check_plain(teacher.model)
        stored = stored_signals(teacher.anatomy, signals, codec)
        skeleton_of(type(teacher.model).__name__, teacher.model.config.to_dict())  # else nobody could read it
        fingerprint = {
            "teacher": teacher_digest(teacher.model),
            "tokenizer": tokenizer_digest(tokenizer) if isinstance(tokenizer, PreTrainedTokenizerBase) else None,
            "max_length": max_length,
            "precision": teacher.precision,
        }
        return cls(stored, codec, LOGITS in signals and LOGITS not in stored, fingerprint)

    def check(self, folder: CacheFolder) -> Facts:
        """The facts of a cache that is there, compared with what is to be written.

        Raises: `CacheMismatch` that names what differs, with both values.
        """
        facts = folder.facts()
        check_same(facts.fingerprint, self.fingerprint, folder.path)
        check_holds([signal_named(each.name) for each in facts.signals], self.signals, folder.path)
        for told in facts.signals:
            asked = codec_of(told.name, told.width, self.codec)
            if (asked.name, asked.settings()) != (told.codec, told.settings):
                raise CacheMismatch(
                    f"{folder.path} holds {told.name} as {told.codec} {told.settings}, and {asked.name} "
                    f"{asked.settings()} is asked for. Choose another folder for this cache, or remove that one."
                )
        return facts


def fill(folder: CacheFolder, teacher: Frozen, order: Order, sources: Sequence[Source], batch_size: int) -> None:
    """Writes down what the cache lacks of the rows. Every process of a job calls it and does its share; rows whose
    shard is whole are not run again, so a job that was broken off goes on. Where nothing is lacking nobody writes, so
    jobs that share a whole cache may start together.

    Raises: `CacheMismatch` for a cache of something else, another job in the folder, or a disk that is full;
    `DistillationError` for numbers that are none. What the first process finds, all of them raise.
    """
    held = agreed(lambda: _held(folder, order))
    inputs = Inputs.of(teacher.model, teacher.accepts if held is None else held.columns)
    scans = [scan(source, inputs) for source in sources]
    if held is not None and not any(_missing(folder, held, found) for found in scans):
        teacher.bind(frozenset())  # takes its hooks off, here as below
        return
    rank, processes = place()
    with ExitStack() as claim:
        facts = agreed(lambda: _claimed(claim, folder, teacher, order, sources[0]))
        written = _placed(folder, facts, teacher, order)
        for source, found in zip(sources, scans, strict=True):
            numbers = _missing(folder, facts, found)[rank::processes]
            _write(folder, teacher, written, source, inputs, numbers, batch_size)
            wait_for_everyone()
            facts = agreed(folder.facts)
        teacher.bind(frozenset())


def _held(folder: CacheFolder, order: Order) -> Facts | None:
    """The facts of a cache that is there; they may be those of one that another job is writing."""
    return order.check(folder) if folder.exists() else None


def _claimed(claim: ExitStack, folder: CacheFolder, teacher: Frozen, order: Order, source: Source) -> Facts:
    """Takes the folder for this job, and begins the cache where there is none."""
    claim.enter_context(folder.claimed())
    if _held(folder, order) is None:
        _begin(folder, teacher, order, source)
    return folder.facts()


def _placed(folder: CacheFolder, facts: Facts, teacher: Frozen, order: Order) -> list[Written]:
    """The signals of the cache, ready to be written where the teacher is; the teacher is bound to them."""
    written = written_signals(folder, facts)
    for each in written:
        each.codec.place(teacher.model.device)
        if order.with_head and each.signal == FINAL:
            each.codec.guide(_head(teacher))
    teacher.bind(frozenset(each.signal for each in written))
    return written


def _missing(folder: CacheFolder, facts: Facts, found: Scan) -> list[int]:
    """The rows that are not in the cache, one of each key, longest first, so that batches have little padding and are
    dealt out evenly."""
    absent = np.flatnonzero(CacheReader(folder, facts).find(found.keys) < 0)
    _, first = np.unique(found.keys[absent], return_index=True)
    numbers = np.sort(absent[first])
    logger.info(
        "%s has %d of %d rows; %d are run", folder.path, len(found.keys) - len(absent), len(found.keys), len(first)
    )
    return [int(number) for number in numbers[np.argsort(-found.lengths[numbers], kind="stable")]]


def _begin(folder: CacheFolder, teacher: Frozen, order: Order, source: Source) -> None:
    """The facts, the head, and the codecs' tables, which are made on rows at equal distances."""
    has_tables = order.codec is not None and type(order.codec).fit is not Codec.fit
    some = np.linspace(0, len(source.rows) - 1, min(SAMPLE_ROWS if has_tables else 1, len(source.rows))).astype(int)
    teacher.bind(order.signals)
    facts: list[SignalFacts] = []
    tables: dict[str, Tensor] = {}
    samples = _samples(teacher, order.signals, source, some.tolist())
    for signal in sorted(samples, key=str):
        by_token, rows = samples[signal]
        codec = codec_of(str(signal), rows.shape[1], order.codec)
        with torch.no_grad():
            codec.fit(rows, _head(teacher) if order.with_head and signal == FINAL else None)
        tables |= {f"{signal}/{name}": table.cpu() for name, table in codec.state().items()}
        named = SignalFacts(
            name=str(signal),
            by_token=by_token,
            width=rows.shape[1],
            codec=codec.name,
            settings=codec.settings(),
        )
        facts.append(named)
    model = teacher.model
    files = {CONFIG: json.dumps(config_of(model), default=str).encode(), TABLES: save(tables)}
    if order.with_head:
        files[HEAD] = save({name: each.cpu().contiguous() for name, each in head_parameters(model).items()})
    told = Facts(
        format=FORMAT,
        fingerprint=dict(order.fingerprint),
        class_name=type(model).__name__,
        columns=sorted(teacher.accepts),
        signals=facts,
        files={},
    )
    folder.begin(told, files)


def _samples(
    teacher: Frozen, signals: frozenset[Signal], source: Source, numbers: list[int]
) -> dict[Signal, tuple[bool, Tensor]]:
    """Whether each signal goes by token, and some of its rows."""
    rows: dict[Signal, list[Tensor]] = {signal: [] for signal in signals}
    by_token: dict[Signal, bool] = {}
    for start in range(0, len(numbers), SAMPLE_BATCH):
        batch = source.batch(numbers[start : start + SAMPLE_BATCH])
        shown = teacher.activations(_moved(batch, teacher))
        for signal, kept in rows.items():
            tensor = tensor_of(shown, signal)
            by_token[signal] = tensor.dim() == 3
            most = max(min(SAMPLE_TOKENS, SAMPLE_NUMBERS // tensor.shape[-1]), 1)
            kept.append(rows_of(tensor, row_lengths(batch), batch["input_ids"].shape[1])[:most])
    return {signal: (by_token[signal], torch.cat(kept)) for signal, kept in rows.items()}


def _head(teacher: Frozen) -> Head:
    """The teacher's head for rows `[rows, width]`."""

    def logits(rows: Tensor) -> Tensor:
        with torch.no_grad():
            made: Tensor = teacher.anatomy.head(rows.unsqueeze(0).to(teacher.model.dtype))
        return made.squeeze(0).float()

    return logits


def _moved(batch: Mapping[str, Any], teacher: Frozen) -> dict[str, Tensor]:
    device = teacher.model.device
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}


def _write(
    folder: CacheFolder,
    teacher: Frozen,
    written: Sequence[Written],
    source: Source,
    inputs: Inputs,
    numbers: list[int],
    batch_size: int,
) -> None:
    if not numbers:
        return
    buffer = _Buffer(folder, {each.signal for each in written if each.by_token})
    for start in tqdm(range(0, len(numbers), batch_size), desc="Caching the teacher", unit=" batches"):
        batch = source.batch(numbers[start : start + batch_size])
        lengths = row_lengths(batch)
        shown = teacher.activations(_moved(batch, teacher))
        parts: dict[str, Tensor] = {}
        for each in written:
            parts |= each.encode(rows_of(tensor_of(shown, each.signal), lengths, batch["input_ids"].shape[1]))
        buffer.add(row_keys(batch, inputs, lengths), lengths, parts)
    buffer.flush()


class _Buffer:
    """Rows on their way into a shard."""

    def __init__(self, folder: CacheFolder, by_token: set[Signal]) -> None:
        self.folder, self.by_token = folder, {str(signal) for signal in by_token}
        self._start()

    def _start(self) -> None:
        self.keys: list[bytes] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.parts: dict[str, list[Tensor]] = {}
        self.bytes, self.since = 0, time.monotonic()

    def add(self, keys: list[bytes], lengths: NDArray[np.int64], parts: Mapping[str, Tensor]) -> None:
        self.keys += keys
        self.lengths.append(lengths)
        for name, part in parts.items():
            self.parts.setdefault(name, []).append(part)
            self.bytes += part.numel() * part.element_size()
        if self.bytes >= SHARD_BYTES or time.monotonic() - self.since > SHARD_SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.keys:
            parts = {name: torch.cat(each) for name, each in self.parts.items()}
            by_token = {name for name in parts if name.rpartition("/")[0] in self.by_token}
            self.folder.append(shard_bytes(self.keys, np.concatenate(self.lengths), parts, by_token))
        self._start()
