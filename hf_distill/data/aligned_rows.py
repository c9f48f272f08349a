"""Rows of texts in the tokens of two tokenizers, and batches of them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, Features, List, Value, concatenate_datasets
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_distill.data.alignment import Reader, Span, Tokens, spans_of
from hf_distill.data.files import choices
from hf_distill.data.packing import around, chunks
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED

logger = logging.getLogger(__name__)

LONG = ("cut", "split")
FILLS = {
    "labels": IGNORED,
    "student_spans": -1,
    "teacher_labels": IGNORED,
    "teacher_spans": -1,
}
"""What fills up columns of a batch that are no token ids."""

COLUMNS = ("input_ids", "labels", "student_spans", "teacher_input_ids", "teacher_labels", "teacher_spans")

Row = dict[str, list[int]]


@dataclass
class AlignmentCounts:
    """What became of some texts: the `rows` and `spans` made of them, the tokens that count on both sides, and those
    of them that are in no span, as the other side has no end of a token where they end, or because they begin a row
    and nothing predicts them. `cut_characters` were left out as too long, `texts_left_out` had no span at all.
    """

    texts: int = 0
    rows: int = 0
    spans: int = 0
    student_tokens: int = 0
    teacher_tokens: int = 0
    student_unaligned: int = 0
    teacher_unaligned: int = 0
    cut_characters: int = 0
    texts_left_out: int = 0

    def add(self, other: AlignmentCounts) -> None:
        """Adds the counts of other texts."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def to_dict(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)

    def __str__(self) -> str:
        ours = _share(self.student_unaligned, self.student_tokens)
        theirs = _share(self.teacher_unaligned, self.teacher_tokens)
        return (
            f"{self.texts:,} texts in {self.rows:,} rows and {self.spans:,} spans; in no span are "
            f"{self.student_unaligned:,} of the student's {self.student_tokens:,} tokens ({ours}) and "
            f"{self.teacher_unaligned:,} of the teacher's {self.teacher_tokens:,} ({theirs}); "
            f"{self.cut_characters:,} characters were cut off, and {self.texts_left_out:,} texts left out, which have "
            "no span"
        )


def _share(part: int, whole: int) -> str:
    return f"{part / max(whole, 1):.2%}"


class Aligned(NamedTuple):
    """Rows to train on, and what became of the texts."""

    rows: Dataset
    counts: AlignmentCounts


class AlignedPadding:
    """Puts rows of `align_texts` together into a batch, each side padded on the right to its own longest row. Where
    nobody reads the teacher's columns, and the trainer has taken them off, it does without them."""

    def __init__(self, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> None:
        self.fills = {
            **FILLS,
            "input_ids": _padding(student, "student"),
            "teacher_input_ids": _padding(teacher, "teacher"),
        }

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of int64 tensors `[rows, length]`, and the attention mask of each side."""
        given = {name: fill for name, fill in self.fills.items() if name in rows[0]}
        batch = {name: _padded([row[name] for row in rows], fill) for name, fill in given.items()}
        for side in (side for side in ("", "teacher_") if f"{side}input_ids" in batch):
            lengths = torch.tensor([len(row[f"{side}input_ids"]) for row in rows])
            places = torch.arange(batch[f"{side}input_ids"].shape[1])
            batch[f"{side}attention_mask"] = (places < lengths.unsqueeze(1)).long()
        return batch


def align_texts(
    texts: Iterable[str],
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    teacher_max_length: int | None = None,
    long: str = "cut",
) -> Aligned:
    """Texts in the tokens of both tokenizers, each ended by the tokenizer's own end of a text.

    A row has `input_ids`, `labels` (the tokens that count) and `student_spans` (the span that each token is a part
    of, -1 for none), and `teacher_input_ids`, `teacher_labels` and `teacher_spans`. `max_length` and
    `teacher_max_length` (the same without it) are the most tokens of a row: texts that are longer are cut behind the
    last span that both have room for or, with `long="split"`, go on in a further row. Beginnings and ends of a text
    are aligned by their role. What is aligned and what is not is counted and logged.

    Raises: `DataError` where no row is left, for a text that is no string, for offsets that do not follow the text,
    and for lengths without room; `IncompatiblePair` for a slow tokenizer.
    """
    aligner = Aligner(student_tokenizer, teacher_tokenizer, max_length, teacher_max_length, long)
    counts = AlignmentCounts()
    return gathered((aligner.rows(chunk, counts) for chunk in chunks(_checked(texts))), counts)


def gathered(parts: Iterable[Iterable[Row]], counts: AlignmentCounts) -> Aligned:
    """The rows of several parts, which are counted while they are made, in one data set.

    Raises: `DataError` where there are none.
    """
    made = []
    for part in parts:
        rows = list(part)
        columns = {name: [row[name] for row in rows] for name in COLUMNS}
        made.append(Dataset.from_dict(columns, features=_FEATURES))
    if not counts.rows:
        raise DataError(f"no text is left to train on: {counts}.")
    logger.warning("aligned across tokenizers: %s.", counts)
    return Aligned(concatenate_datasets(made), counts)


_FEATURES = Features({name: List(Value("int32")) for name in COLUMNS})


def nothing_aligned() -> Aligned:
    """No rows, where there is no text to align yet."""
    return Aligned(Dataset.from_dict({name: [] for name in COLUMNS}, features=_FEATURES), AlignmentCounts())


class Aligner:
    """Makes rows of texts for two tokenizers; see `align_texts`."""

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        teacher: PreTrainedTokenizerBase,
        max_length: int,
        teacher_max_length: int | None = None,
        long: str = "cut",
    ) -> None:
        if long not in LONG:
            raise DataError(f"long is {long!r}; {choices(long, LONG)}.")
        self.readers, self.long = (Reader(student, "student"), Reader(teacher, "teacher")), long
        self.ours = _Frame.of(student, max_length, "student")
        self.theirs = _Frame.of(teacher, teacher_max_length or max_length, "teacher")

    def rows(self, texts: list[str], counts: AlignmentCounts) -> Iterator[Row]:
        """The rows of texts; what became of them is added to `counts`."""
        for ours, theirs in zip(*(reader(texts) for reader in self.readers), strict=True):
            counts.texts += 1
            (spans,) = spans_of(ours, theirs)
            kept = rows = 0
            for piece in self._pieces(spans):
                row = self._row(ours, theirs, piece, piece[-1] is spans[-1])
                if row is None:
                    continue
                rows, kept = rows + 1, kept + piece[-1].end - piece[0].start
                count_row(row, counts)
                yield row
                if self.long == "cut":
                    break
            counts.texts_left_out += not rows
            counts.cut_characters += len(ours.text) - kept if rows else 0

    def _pieces(self, spans: list[Span]) -> Iterator[list[Span]]:
        """Runs of spans that both sides have room for. A span that is longer than a row is left out of all of them."""
        piece: list[Span] = []
        for span in spans:
            alone = not self._fits(span, span)
            if piece and (alone or not self._fits(piece[0], span)):
                yield piece
                piece = []
            if not alone:
                piece.append(span)
        if piece:
            yield piece

    def _fits(self, first: Span, last: Span) -> bool:
        ours, theirs = last.student_end - first.student, last.teacher_end - first.teacher
        return ours <= self.ours.room and theirs <= self.theirs.room

    def _row(self, ours: Tokens, theirs: Tokens, piece: list[Span], is_last: bool) -> Row | None:
        """A row of a run of spans, with the beginning of a text and, where the text ends, its end; None where nothing
        of the text is aligned."""
        first, last = piece[0], piece[-1]
        number, student_spans, teacher_spans = 0, [], []
        for span in piece:
            predicted = self.ours.predicts(span.student - first.student)
            predicted &= self.theirs.predicts(span.teacher - first.teacher)
            shown = number if span.aligned and predicted else -1
            number += shown >= 0
            student_spans += [shown] * (span.student_end - span.student)
            teacher_spans += [shown] * (span.teacher_end - span.teacher)
        if not number:
            return None
        ends = (self.ours, last.student_end - first.student), (self.theirs, last.teacher_end - first.teacher)
        end = number if all(frame.end and frame.predicts(place) for frame, place in ends) else -1
        return {
            **self.ours.columns(ours.ids[first.student : last.student_end], student_spans, end, is_last, ""),
            **self.theirs.columns(
                theirs.ids[first.teacher : last.teacher_end], teacher_spans, end, is_last, "teacher_"
            ),
        }


class _Frame(NamedTuple):
    """What a tokenizer puts around a text, and how many tokens of it a row has room for."""

    begin: tuple[int, ...]
    end: tuple[int, ...]
    room: int

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, max_length: int, role: str) -> _Frame:
        begin, end = around(tokenizer)
        if not end:
            last = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
            end = () if last is None else (last,)
        room = max_length - len(begin) - len(end)
        if room < 1:
            raise DataError(
                f"max_length {max_length} leaves the {role} no room for text beside {len(begin) + len(end)} special "
                "tokens."
            )
        return cls(begin, end, room)

    def predicts(self, place: int) -> bool:
        """Whether there is a token in front of one of the text."""
        return place + len(self.begin) > 0

    def columns(self, ids: list[int], spans: list[int], end: int, is_last: bool, side: str) -> Row:
        """The columns of a row of one side."""
        tail = list(self.end) if is_last else []
        spans_name = "teacher_spans" if side else "student_spans"
        return {
            f"{side}input_ids": [*self.begin, *ids, *tail],
            f"{side}labels": [*[IGNORED] * len(self.begin), *ids, *tail],
            spans_name: [*[-1] * len(self.begin), *spans, *[end] * len(tail)],
        }


def _number(row: Row) -> int:
    """The spans of a row."""
    return max(row["student_spans"], default=-1) + 1


def count_row(row: Row, counts: AlignmentCounts) -> None:
    """Adds a row, its spans and its tokens to the counts."""
    counts.rows += 1
    counts.spans += _number(row)
    for side, labels in (("student", "labels"), ("teacher", "teacher_labels")):
        placed = [span for span, label in zip(row[f"{side}_spans"], row[labels], strict=True) if label != IGNORED]
        tokens, alone = f"{side}_tokens", f"{side}_unaligned"
        setattr(counts, tokens, getattr(counts, tokens) + len(placed))
        setattr(counts, alone, getattr(counts, alone) + sum(span < 0 for span in placed))


def _checked(texts: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise DataError(f"text {number} is a {type(text).__name__}; texts are strings.")
        yield text


def _padding(tokenizer: PreTrainedTokenizerBase, role: str) -> int:
    if tokenizer.pad_token_id is None:
        raise DataError(
            f"the {role}'s tokenizer has no padding token, and a batch needs one; set pad_token, for instance to its "
            "eos_token."
        )
    return int(tokenizer.pad_token_id)


def _padded(columns: list[Any], fill: int) -> Tensor:
    length = max(len(column) for column in columns)
    found = np.full((len(columns), length), fill, dtype=np.int64)
    for i, column in enumerate(columns):
        found[i, : len(column)] = column
    return torch.from_numpy(found)
