"""Conversations as student and teacher read them: each in its own chat template and tokens, aligned message by
message."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from hf_distill.data.aligned_rows import Aligned, AlignmentCounts, Row, count_row, gathered
from hf_distill.data.alignment import Reader, Segment, Span, Tokens, spans_of
from hf_distill.data.chat_day import DATE, on_day, template_of
from hf_distill.data.chat_template import reason_of
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED

Messages = Sequence[Mapping[str, Any]]

AT_ONCE = 1000
"""Conversations that are tokenised together."""

LEARNED = "assistant"
"""Whose messages count."""

_SHOWN = 60


class Rendered(NamedTuple):
    """A conversation in a chat template, and where in it each message begins, and what it says."""

    text: str
    starts: tuple[int, ...]
    contents: tuple[str, ...]


class Side:
    """One model's way to read conversations; `date` is the day that a chat template is told which asks for it.

    Raises: `DataError` for a tokenizer without a chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: str, max_length: int, date: str = DATE) -> None:
        template = template_of(tokenizer)
        if template is None:
            raise DataError(
                f"the {role}'s tokenizer has no chat template, which messages are written in; set "
                "tokenizer.chat_template (in a recipe data.chat.template, for the student), or make texts of the "
                "messages and align these (align_texts)."
            )
        self.tokenizer, self.role, self.max_length = tokenizer, role, max_length
        self._on_day = on_day(template, date)
        self.reader = Reader(tokenizer, role)
        self.special = {
            *tokenizer.all_special_ids,
            *(n for n, t in tokenizer.added_tokens_decoder.items() if t.special),
        }

    def render(self, messages: Messages, place: str) -> Rendered:
        """A conversation as text. Where each message stands follows from one with marks in place of what is said.

        Raises: `DataError` for a template that fails, or writes messages otherwise than as they are.
        """
        marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
        whole = self._written(messages, place)
        marked = self._written([{**m, "content": mark} for m, mark in zip(messages, marks, strict=True)], place)
        for change in (str, str.strip):
            contents = tuple(change(str(message["content"])) for message in messages)
            text, starts = "", []
            rest = marked
            for mark, content in zip(marks, contents, strict=True):
                before, found, rest = rest.partition(mark)
                if not found:
                    break
                text += before
                starts.append(len(text))
                text += content
            if len(starts) == len(messages) and text + rest == whole:
                return Rendered(whole, tuple(starts), contents)
        raise DataError(
            f"{place}: the {self.role}'s chat template leaves messages out or changes what they say, so "
            f"that they cannot be placed in {whole[:_SHOWN]!r}; give a template that writes each as it is."
        )

    def _written(self, messages: Messages, place: str) -> str:
        try:
            return str(self.tokenizer.apply_chat_template(list(messages), chat_template=self._on_day, tokenize=False))
        except Exception as error:  # a template is a program, and raises what it likes
            raise DataError(
                f"{place}: the {self.role}'s chat template does not take it: {reason_of(error)}. Change the messages "
                "to what the template takes, leave the conversation out, or give another template "
                "(tokenizer.chat_template; in a recipe data.chat.template, for the student)."
            ) from error


def align_messages(
    conversations: Iterable[Messages],
    student_tokenizer: PreTrainedTokenizerBase,
    teacher_tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    teacher_max_length: int | None = None,
    place: Callable[[int], str] = "conversation {}".format,
    last: bool = False,
    date: str = DATE,
) -> Aligned:
    """Rows as those of `align_texts`, of conversations: lists of `{"role": …, "content": …}`.

    Each model reads a conversation in its own chat template. What the assistant says counts, with `last` in the last
    message alone, and is aligned by the characters of each message; so does the special token that ends its turn,
    which is aligned by its role where both templates have one, and white space in front of that, which is not aligned.
    A conversation that is too long for either model is cut behind the last span that both have room for; one of which
    nothing is left is left out. Both are counted and logged. `place` says where a conversation stands, of its number
    from 1 on, for messages; `date` is the day that a template is told which asks for it.

    Raises: `DataError` for a tokenizer without a chat template, a conversation that a template does not take or
    changes, one without a message of the assistant, and where no row is left; `IncompatiblePair` for a slow tokenizer.
    """
    ours = Side(student_tokenizer, "student", max_length, date)
    theirs = Side(teacher_tokenizer, "teacher", teacher_max_length or max_length, date)
    counts = AlignmentCounts()
    placed = ((place(number), messages) for number, messages in enumerate(conversations, start=1))
    parts = iter(lambda: list(islice(placed, AT_ONCE)), [])
    return gathered((_rows(part, ours, theirs, counts, last) for part in parts), counts)


def _rows(
    part: Sequence[tuple[str, Messages]], ours: Side, theirs: Side, counts: AlignmentCounts, last: bool
) -> Iterator[Row]:
    for place, messages in part:
        _check(messages, place)
    rendered = [[side.render(messages, place) for place, messages in part] for side in (ours, theirs)]
    read = [side.reader([each.text for each in found]) for side, found in zip((ours, theirs), rendered, strict=True)]
    for (_, messages), *sides in zip(part, *rendered, *read, strict=True):
        counts.texts += 1
        row = _Row(ours, theirs, messages, sides, len(messages) - 1 if last else 0).made(counts)
        counts.texts_left_out += row is None
        if row is not None:
            count_row(row, counts)
            yield row


def _check(messages: Messages, place: str) -> None:
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or "role" not in message:
            raise DataError(
                f"{place}: a message is {str(message)[:_SHOWN]!r}; it must have a role and a content, both text."
            )
    if not any(message["role"] == LEARNED and message["content"].strip() for message in messages):
        raise DataError(f"{place}: the assistant says nothing, so there is nothing to learn; leave it out.")


class _Row:
    """A conversation on both sides, and the spans of what the assistant says from message `first` on."""

    def __init__(self, ours: Side, theirs: Side, messages: Messages, sides: Sequence[Any], first: int) -> None:
        self.sides = (ours, theirs)
        written: tuple[Rendered, Rendered] = (sides[0], sides[1])
        self.tokens: tuple[Tokens, Tokens] = (sides[2], sides[3])
        self.segments = []
        for i, message in enumerate(messages):
            lengths = {len(each.contents[i]) for each in written}
            if i >= first and message["role"] == LEARNED and 0 not in lengths:
                self.segments.append(_segment(written, i))
        self.turns = spans_of(*self.tokens, self.segments)

    def made(self, counts: AlignmentCounts) -> Row | None:
        """The row, cut to what both have room for; None where no span is left."""
        turns = zip(self.turns, self.segments, strict=True)
        spans = list(chain.from_iterable([*turn, *self._end(turn[-1], segment)] for turn, segment in turns if turn))
        kept = []
        for span in spans:
            if not (self._fits(0, span.student_end) and self._fits(1, span.teacher_end)):
                break
            kept.append(span)
        if not any(span.aligned for span in kept):
            return None
        counts.cut_characters += sum(span.end - span.start for span in spans[len(kept) :])
        whole = len(kept) == len(spans) and all(self._fits(i, len(each.ids)) for i, each in enumerate(self.tokens))
        ends = [len(each.ids) for each in self.tokens] if whole else [kept[-1].student_end, kept[-1].teacher_end]
        return self._columns(kept, ends)

    def _fits(self, side: int, tokens: int) -> bool:
        return tokens <= self.sides[side].max_length

    def _end(self, last: Span, segment: Segment) -> list[Span]:
        """The special token that ends a turn, and in a span of their own the tokens between it and what is said, where
        nothing stands but white space."""
        places = (last.student_end, last.teacher_end)
        behind = (segment.student + segment.length, segment.teacher + segment.length)
        given = zip(self.sides, self.tokens, places, behind, strict=True)
        found = [_ending(side.special, read, place, end) for side, read, place, end in given]
        firsts = [place if end is None else end for place, end in zip(places, found, strict=True)]
        lasts = [first + (end is not None) for first, end in zip(firsts, found, strict=True)]
        between = Span(last.end, last.end, places[0], firsts[0], places[1], firsts[1], False)
        closing = Span(last.end, last.end, firsts[0], lasts[0], firsts[1], lasts[1], None not in found)
        both = (between, closing)
        return [span for span in both if span.student_end > span.student or span.teacher_end > span.teacher]

    def _columns(self, spans: list[Span], ends: list[int]) -> Row:
        columns: Row = {}
        numbers, number = [], 0
        for span in spans:
            is_shown = span.aligned and span.student > 0 and span.teacher > 0
            numbers.append(number if is_shown else -1)
            number += is_shown
        places = ([(s.student, s.student_end) for s in spans], [(s.teacher, s.teacher_end) for s in spans])
        for side, read, of_spans, end in zip(("student", "teacher"), self.tokens, places, ends, strict=True):
            labels, placed = [IGNORED] * end, [-1] * end
            for shown, (first, last) in zip(numbers, of_spans, strict=True):
                labels[first:last] = read.ids[first:last]
                placed[first:last] = [shown] * (last - first)
            prefix = "" if side == "student" else "teacher_"
            columns |= {f"{prefix}input_ids": read.ids[:end], f"{prefix}labels": labels, f"{side}_spans": placed}
        return columns


def _segment(written: tuple[Rendered, Rendered], message: int) -> Segment:
    """Where a message stands on both sides; one that takes white space off has the shorter text."""
    ours, theirs = (each.contents[message] for each in written)
    shorter = min(ours, theirs, key=len)
    starts = [each.starts[message] + each.contents[message].index(shorter) for each in written]
    return Segment(starts[0], starts[1], len(shorter))


def _ending(special: Container[int], read: Tokens, first: int, behind: int) -> int | None:
    """The number of the special token that ends a turn, from `first` on: but for white space nothing stands between it
    and the character `behind`. None where there is none, or no token of the turn."""
    for number in range(first or len(read.ids), len(read.ids)):
        start, end = read.offsets[number]
        if read.text[behind:start].strip():
            break
        if end > behind and read.ids[number] in special:
            return number
    return None
