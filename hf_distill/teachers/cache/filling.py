"""Runs a teacher over the rows that a cache has not, and writes down what it shows."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets.utils import tqdm
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from hf_distill.activations import Activations, Signal
from hf_distill.errors import CacheMismatch, IncompatiblePair
from hf_distill.ranks import agreed, place, together
from hf_distill.teachers.cache.codecs import Codec, Head
from hf_distill.teachers.cache.fingerprint import check_plain, teacher_digest, tokenizer_facts
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
from hf_distill.teachers.cache.keys import KEY, Inputs
from hf_distill.teachers.cache.pieces import Pieces
from hf_distill.teachers.cache.plan import (
    LOGITS,
    check_holds,
    check_read,
    check_tokens,
    codec_of,
    final_of,
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

LARGEST_DIFFERENCE = 0.03
"""The most, of its norm, by which what a teacher shows of a document may change with those packed beside it."""

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

        Raises: `IncompatiblePair` for signals that no cache holds, for a teacher with an adapter, and for one that
        hears; `DistillationError` where nothing is read.
        """
        check_tokens(teacher.model)
        check_read(signals)
        check_plain(teacher.model)
        stored = stored_signals(teacher.anatomy, signals, codec)
        skeleton_of(type(teacher.model).__name__, teacher.model.config.to_dict())  # else nobody could read it
        fingerprint = {
            "teacher": teacher_digest(teacher.model),
            **tokenizer_facts(tokenizer),
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
    `DistillationError` for numbers that are none. What one process finds, all of them raise; those that write finish
    their share before, which the next job need not write again.
    """
    held = agreed(lambda: _held(folder, order))
    inputs = Inputs.of(teacher.model, teacher.accepts if held is None else held.columns)
    scans = [scan(source, inputs) for source in sources]
    if held is not None and not together(lambda: any(_missing(folder, held, found) for found in scans)):
        teacher.bind(frozenset())  # takes its hooks off, here as below
        return
    with ExitStack() as claim:
        facts = agreed(lambda: _claimed(claim, folder, teacher, order, sources[0]))
        written = together(lambda: _placed(folder, facts, teacher, order))
        for source, found in zip(sources, scans, strict=True):
            numbers = _own_share(together(partial(_missing, folder, facts, found)))
            together(partial(_write, folder, teacher, written, source, inputs, numbers, batch_size))
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
        if order.with_head and each.signal == final_of(teacher.anatomy):
            each.codec.guide(_head(teacher))
    teacher.bind(frozenset(each.signal for each in written))
    return written


def _missing(folder: CacheFolder, facts: Facts, found: Scan) -> list[int]:
    """The rows that are not in the cache, one of each key, longest first, so that batches have little padding and are
    dealt out evenly."""
    absent = np.flatnonzero(CacheReader(folder, facts).find(found.keys) < 0)
    _, first = np.unique(found.keys[absent], return_index=True)
    numbers = np.unique(found.rows[np.sort(absent[first])])
    logger.info(
        "%s has %d of %d %s; %d are run",
        folder.path,
        len(found.keys) - len(absent),
        len(found.keys),
        "rows" if found.are_rows else "documents",
        len(first),
    )
    return [int(number) for number in numbers[np.argsort(-found.lengths[numbers], kind="stable")]]


def _own_share(numbers: list[int]) -> list[int]:
    """The rows that fall to this process."""
    rank, processes = place()
    return numbers[rank::processes]


def _begin(folder: CacheFolder, teacher: Frozen, order: Order, source: Source) -> None:
    """The facts, the head, and the codecs' tables, which are made on rows at equal distances."""
    has_tables = order.codec is not None and type(order.codec).fit is not Codec.fit
    some = np.linspace(0, len(source.rows) - 1, min(SAMPLE_ROWS if has_tables else 1, len(source.rows))).astype(int)
    teacher.bind(order.signals)
    facts: list[SignalFacts] = []
    tables: dict[str, Tensor] = {}
    samples = _samples(teacher, order.signals, source, some.tolist())
    read_by_head = final_of(teacher.anatomy)
    for signal in sorted(samples, key=str):
        by_token, rows = samples[signal]
        codec = codec_of(str(signal), rows.shape[1], order.codec)
        with torch.no_grad():
            codec.fit(rows, _head(teacher) if order.with_head and signal == read_by_head else None)
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
    inputs = Inputs.of(teacher.model, teacher.accepts)
    rows: dict[Signal, list[Tensor]] = {signal: [] for signal in signals}
    by_token: dict[Signal, bool] = {}
    for start in range(0, len(numbers), SAMPLE_BATCH):
        batch = source.batch(numbers[start : start + SAMPLE_BATCH])
        pieces, shown = Pieces.of(batch, inputs), teacher.activations(_moved(batch, teacher))
        for signal, kept in rows.items():
            tensor = tensor_of(shown, signal)
            by_token[signal] = tensor.dim() == 3
            most = max(min(SAMPLE_TOKENS, SAMPLE_NUMBERS // tensor.shape[-1]), 1)
            kept.append(rows_of(tensor, pieces)[:most])
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
    buffer = ShardBuffer(folder, {each.signal for each in written if each.by_token})
    lacking = _Lacking(CacheReader(folder, folder.facts()))
    for start in tqdm(range(0, len(numbers), batch_size), desc="Caching the teacher", unit=" batches"):
        batch = source.batch(numbers[start : start + batch_size])
        pieces = Pieces.of(batch, inputs)
        shown = teacher.activations(_moved(batch, teacher))
        if not pieces.are_rows:
            if not lacking.seen:
                _check_documents_apart(teacher, batch, pieces, shown, written)
            pieces = pieces.some(lacking.of(pieces))
        if not len(pieces):
            continue
        parts: dict[str, Tensor] = {}
        for each in written:
            parts |= each.encode(rows_of(tensor_of(shown, each.signal), pieces))
        buffer.add(pieces.keys, pieces.lengths, parts)
    buffer.flush()


class _Lacking:
    """Which documents of packed rows are still to be written; rows that lack one may have others that are there."""

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader
        self.seen: set[bytes] = set()

    def of(self, pieces: Pieces) -> NDArray[np.bool_]:
        absent = self.reader.find(np.frombuffer(b"".join(pieces.keys), KEY)) < 0
        for i, key in enumerate(pieces.keys):
            absent[i] &= key not in self.seen
            self.seen.add(key)
        return absent


def _check_documents_apart(
    teacher: Frozen, batch: Mapping[str, Any], pieces: Pieces, shown: Activations, written: Sequence[Written]
) -> None:
    """Runs the longest document that does not begin its row by itself.

    Raises: `IncompatiblePair` for a teacher that shows something else of it then, and so would in every other row.
    """
    behind = np.flatnonzero(pieces.starts > 0)
    longest = int(behind[np.argmax(pieces.lengths[behind])])
    chosen = pieces.some(np.arange(len(pieces)) == longest)
    row, start, end = int(chosen.rows[0]), int(chosen.starts[0]), int(chosen.starts[0] + chosen.lengths[0])
    columns = {name: each for name, each in batch.items() if isinstance(each, Tensor) and each.dim() == 2}
    document = {name: each[row : row + 1, start:end] for name, each in columns.items()}
    alone = teacher.activations(_moved(document, teacher))
    for each in written:
        packed = rows_of(tensor_of(shown, each.signal), chosen)
        apart = tensor_of(alone, each.signal)[0].float()
        if not (packed - apart).norm() <= LARGEST_DIFFERENCE * apart.norm():
            raise IncompatiblePair(
                f"the teacher, a {type(teacher.model).__name__}, shows another {each.signal} of a document of "
                f"{end - start} tokens in a packed row than of the document alone: its attention goes across the "
                "documents, whatever position_ids say. Put one document in a row, or give the teacher another "
                "attn_implementation (sdpa, eager)."
            )


class ShardBuffer:
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
