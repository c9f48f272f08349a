"""A teacher that is read from the disk."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.activations import Activations, Signal
from hf_distill.anatomy import Anatomy
from hf_distill.errors import CacheMismatch, DistillationError
from hf_distill.tasks import Batch, CausalLM, Seq2SeqLM
from hf_distill.teachers.base import Teacher
from hf_distill.teachers.cache.codecs import TopK
from hf_distill.teachers.cache.fingerprint import teacher_digest, tokenizer_facts
from hf_distill.teachers.cache.folder import CONFIG, HEAD, TABLES, CacheFolder, check_same
from hf_distill.teachers.cache.keys import MASK, TARGET_MASK, Inputs
from hf_distill.teachers.cache.pieces import Pieces
from hf_distill.teachers.cache.plan import DECODER, HEAD_STATE, LOGITS, check_holds, final_of, nested
from hf_distill.teachers.cache.reader import CacheReader
from hf_distill.teachers.cache.recorded import AS_SERVED, RecordedTopK
from hf_distill.teachers.cache.scanning import SCANNED, Collator, Source, same_random_numbers, scan
from hf_distill.teachers.cache.shards import arrived
from hf_distill.teachers.cache.signals import written_signals
from hf_distill.teachers.cache.skeleton import give_head, move_head, read_axes, skeleton_of
from hf_distill.teachers.frozen import precision
from hf_distill.top_logits import RECORDED

logger = logging.getLogger(__name__)

COLUMN = "teacher/"
"""How the columns of a batch begin that hold what the cache has of its rows (`Cached.column`). No model has an input
of such a name."""


@dataclass(frozen=True, eq=False)
class AxesHead:
    """A head that reads the last hidden state in the axes of its codec, as `reads` shows it."""

    logits: Callable[[Tensor], Tensor]
    reads: Signal = HEAD_STATE

    def __call__(self, state: Tensor) -> Tensor:
        return self.logits(state)


class Cached(Teacher):
    """What a teacher showed for each row, read from a folder that `DistillationTrainer.cache_teacher`, a recipe or
    `scripts/cache_teacher.py` wrote. The teacher itself is not in memory.

    Rows are found by what the teacher reads of them (token ids, segment ids), so order, epochs, batches and processes
    do not matter; a row that is made anew each time (masking, augmentation while collating) is not found. A packed row
    is one row where attention goes across its documents: packed together with others, they are other rows. Where the
    documents of a decoder are kept apart (`cache.pieces.Pieces`), each is found by itself. Of an encoder-decoder a row
    is found by its source and its target text, and what its decoder shows is kept. The collator reads them, in the
    workers of the loader where there are any, and they travel with the batch. Of a language model the folder holds the
    last hidden state and the head, which is applied on reading, or the largest logits.

    `teacher`, `tokenizer` and `max_length` are compared with those that the cache was written for, and not kept.
    `dtype` says, as in `Frozen`, that the teacher has weights of a type of its own, whatever the training's precision
    is; without it, the mixed precision of the training must be the one that the teacher ran under.

    Raises: `CacheMismatch` for a folder without a cache, one that is damaged, or one of something else; in `place`
    for the cache of a teacher that ran in another precision.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        teacher: PreTrainedModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.folder = CacheFolder(folder)
        self.facts = self.folder.facts()
        wanted = {"teacher": None if teacher is None else teacher_digest(teacher), "max_length": max_length}
        check_same(self.facts.fingerprint, wanted, self.folder.path)
        self._check_tokenizer(tokenizer)
        self._dtype = dtype
        self.reader = CacheReader(self.folder, self.facts)
        self._written = {each.signal: each for each in written_signals(self.folder, self.facts)}
        self._has_head = HEAD in self.facts.files
        self._model = self._skeleton()
        self.anatomy = Anatomy.of(self._model)
        self._final = final_of(self.anatomy)
        self._in_axes = self._has_head and self._reads_axes()
        self._inputs = Inputs.of(self._model, self.facts.columns)
        self._asked: frozenset[Signal] = frozenset()
        self.column = COLUMN
        self._autocast: Callable[[], AbstractContextManager[None]] = nullcontext

    def _skeleton(self) -> PreTrainedModel:
        config = self.folder.table(CONFIG, self.facts)
        try:
            model = skeleton_of(self.facts.class_name, config)
        except CacheMismatch as error:
            raise CacheMismatch(f"{self.folder.path}: {error}") from error
        if self._has_head:
            head = self.folder.tensors(HEAD, self.facts)
            anatomy = Anatomy.of(model)
            if not anatomy.knows_head or final_of(anatomy) not in self._written:
                raise self.folder.damaged(HEAD, "there is no last hidden state, or no known head that reads it")
            try:
                give_head(model, head)
            except CacheMismatch as error:
                raise self.folder.damaged(HEAD, error) from error
            weights = dict(model.named_parameters())
            self._head_dtype = next(each.dtype for name, each in head.items() if name in weights)
        return model

    def _reads_axes(self) -> bool:
        """Has the head read the last hidden state in the axes of its codec, where it has any and the result is the
        same; in mixed precision it would be rounded in other places."""
        axes, width = self._written[self._final].codec.axes(), self.anatomy.shape.stack(self._final.stack).hidden_size
        if axes is None or self._is_mixed or self._final.stack:
            return False
        if len(axes.offset) != width:
            raise self.folder.damaged(TABLES, f"states are {len(axes.offset)} wide, those of the teacher {width}")
        return read_axes(self._model, axes)

    @property
    def _is_mixed(self) -> bool:
        return "autocast" in str(self.facts.fingerprint["precision"])

    def _check_tokenizer(self, tokenizer: Any) -> None:
        check_same(self.facts.fingerprint, tokenizer_facts(tokenizer), self.folder.path)

    @property
    def accepts(self) -> frozenset[str]:
        return frozenset(self.facts.columns)

    @property
    def temperatures(self) -> tuple[float, ...] | None:
        written = self._written.get(LOGITS)
        return tuple(written.codec.temperatures) if written and isinstance(written.codec, TopK) else None

    @property
    def head(self) -> Callable[[Tensor], Tensor] | None:
        if self._in_axes:
            return AxesHead(self._logits)
        return self._logits if self._has_head else None

    def bind(self, signals: frozenset[Signal]) -> None:
        held = {*self._written, *({LOGITS} if self._has_head else ()), *({HEAD_STATE} if self._in_axes else ())}
        check_holds(held, signals, self.folder.path)
        self._asked = signals

    def prepare(self, rows: Any, collator: Collator, tokenizer: Any) -> None:
        """Raises: `CacheMismatch` if the cache lacks one of the rows, or is of another tokenizer."""
        self._check_tokenizer(tokenizer)
        if hasattr(rows, "__len__") and hasattr(rows, "__getitem__"):
            found = scan(Source(rows, collator), self._inputs)
            absent = (self.reader.find(found.keys) < 0).nonzero()[0]
            if len(absent):
                pieces = f"{len(found.keys)} {'rows' if found.are_rows else 'documents'}"
                raise CacheMismatch(
                    f"{self.folder.path}: {len(absent)} of {pieces} are not in the teacher's cache, row "
                    f"{found.rows[absent[0]]} is the first: the cache is not complete, or it was written for other "
                    "texts, or for texts that were cut to another length or packed together with others. Write what "
                    "is missing by scripts/cache_teacher.py or trainer.cache_teacher, or choose another folder."
                )

            if self.is_recorded:
                self._tell_of_records(Source(rows, self.reading(collator)))

    @property
    def is_recorded(self) -> bool:
        """Whether it is made of what a served teacher told, which may be silent of some positions."""
        written = self._written.get(LOGITS)
        return written is not None and isinstance(written.codec, RecordedTopK)

    def _tell_of_records(self, source: Source) -> None:
        """Counts the labelled positions without a record."""
        counted, recorded, task = 0, 0, CausalLM()
        with same_random_numbers():
            for start in range(0, len(source.rows), SCANNED):
                batch = source.batch(range(start, min(start + SCANNED, len(source.rows))))
                if "labels" not in batch:
                    return
                mask = task.label_mask(batch)
                counted += int(mask.sum())
                recorded += int((mask & task.at_rows(batch[RECORDED])).sum())
        if counted and not recorded:
            raise CacheMismatch(
                f"{self.folder.path}: of {counted} labelled positions the served teacher told of none. Labels are to "
                "stand where it was asked for log-probabilities: of the answers, or of the prompts as well "
                "(prompt_logprobs)."
            )
        if recorded < counted:
            logger.warning(
                "%s: of %d labelled positions %d have no record of the served teacher; terms that learn from it do "
                "not count them.",
                self.folder.path,
                counted,
                counted - recorded,
            )

    def reading(self, collator: Collator) -> Collator:
        return _Reading(collator, self.reader, self._inputs, self.column, self.is_recorded)

    def place(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        self._check_precision(device, autocast)
        self._autocast = autocast if self._is_mixed else nullcontext
        for each in self._written.values():
            each.codec.place(device)
        move_head(self._model, device)

    def _check_precision(self, device: torch.device, autocast: Callable[[], AbstractContextManager[None]]) -> None:
        found = str(self.facts.fingerprint["precision"])
        if found == AS_SERVED:
            return
        kept: Any = getattr(torch, found.partition(",")[0], None)  # what the training cannot tell of
        here = precision(kept, device, autocast) if self._dtype is None else precision(self._dtype, device)
        if found != here:
            remedy = "" if "," in found else f" If it is to keep its own type, give Cached(folder, dtype={kept})."
            raise CacheMismatch(
                f"{self.folder.path} was written with another precision: the teacher ran in {found}, and would here "
                f"in {here}.{remedy} Else train in the precision it was written for (bf16, fp16), or choose another "
                "folder."
            )

    def activations(self, batch: Batch) -> Activations:
        parts = self._parts(batch)
        with torch.no_grad():
            shown: dict[Signal, Any] = {
                each: self._written[each].decode(parts) for each in self._asked & {*self._written}
            }
            if HEAD_STATE in self._asked:
                shown[HEAD_STATE] = self._written[self._final].decode_axes(parts)
            if LOGITS in self._asked and LOGITS not in self._written:
                shown[LOGITS] = self._logits(self._head_state(parts, shown))
        mask = batch[MASK] if MASK in batch else torch.ones_like(batch["input_ids"])
        if not self._inputs.targets:
            return Activations(mask=mask, **nested(shown))
        targets = batch[TARGET_MASK] if TARGET_MASK in batch else Seq2SeqLM().decoder_tokens(batch)
        decoder = Activations(mask=targets, **nested(shown, DECODER))
        return Activations(mask=targets, encoder=Activations(mask=mask), decoder=decoder, **nested(shown))

    def _head_state(self, parts: Mapping[str, Tensor], shown: Mapping[Signal, Any]) -> Tensor:
        """What the head reads, taken from what is shown anyway where it is."""
        signal, written = (HEAD_STATE if self._in_axes else self._final), self._written[self._final]
        state: Any = shown.get(signal)
        if state is None:
            state = written.decode_axes(parts) if self._in_axes else written.decode(parts)
        found: Tensor = state
        return found

    def _logits(self, state: Tensor) -> Tensor:
        unmixed = torch.autocast(state.device.type, enabled=False)  # the student's precision is not the teacher's
        with torch.no_grad(), unmixed, self._autocast():
            return self.anatomy.head(state.to(self._head_dtype))

    def _parts(self, batch: Batch) -> dict[str, Tensor]:
        parts = {
            name: arrived(batch[f"{self.column}{name}"], dtype)
            for name, dtype in self.reader.dtypes.items()
            if f"{self.column}{name}" in batch
        }
        if not parts:
            raise DistillationError(
                "the batch has nothing of the teacher's cache; make batches by the collator that Cached.reading gives."
            )
        return parts


class _Reading:
    """A collator whose batches hold what a cache has of their rows."""

    def __init__(
        self, collator: Collator, reader: CacheReader, inputs: Inputs, column: str, is_recorded: bool
    ) -> None:
        self.collator, self.reader, self.inputs, self.column = collator, reader, inputs, column
        self.is_recorded = is_recorded

    def __call__(self, rows: list[Any]) -> Mapping[str, Any]:
        batch = self.collator(rows)
        found = self.reader.read(Pieces.of(batch, self.inputs), len(batch["input_ids"]))
        columns = {f"{self.column}{name}": part for name, part in found.items()}
        if self.is_recorded:
            columns[RECORDED] = found[f"{LOGITS}/known"][..., 0] != 0
        return {**batch, **columns}
