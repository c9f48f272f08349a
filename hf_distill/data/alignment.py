"""Where two tokenizations of the same text have the ends of tokens in common.

Tokens are placed by the characters of the original text that they stand for, so that it does not matter how a
tokenizer writes them: lower case, without accents, as bytes, with marks for words. A token takes the text from the end
of the one before it to its own end; what no token stands for, as white space to WordPiece, goes with the token behind
it. A token ends where a character ends: bytes of one character that are several tokens are one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from hf_distill.errors import DataError, IncompatiblePair

Offsets = Sequence[tuple[int, int]]
Ends = dict[int, int]
"""Places of the text at which a token ends, and how many tokens end there or before."""

_SHOWN = 60


class Tokens(NamedTuple):
    """A text in tokens: their ids, and the characters that each stands for."""

    text: str
    ids: list[int]
    offsets: Offsets


class Segment(NamedTuple):
    """A piece of text that both sides have, from the character `student` of the one text and `teacher` of the other."""

    student: int
    teacher: int
    length: int


class Span(NamedTuple):
    """The characters `[start, end)` of a segment, and the student's tokens `[student, student_end)` and the teacher's
    `[teacher, teacher_end)` that are these. On one side there may be none: then nothing there answers to the other.
    """

    start: int
    end: int
    student: int
    student_end: int
    teacher: int
    teacher_end: int
    aligned: bool


def tokenized(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[Tokens]:
    """Texts without special tokens, however long they are.

    Raises: `IncompatiblePair` for a tokenizer that does not say where in the text its tokens are.
    """
    if not tokenizer.is_fast:
        raise IncompatiblePair(
            f"{type(tokenizer).__name__} is a slow tokenizer, which does not say where in a text its tokens are; texts "
            "are aligned by that. Load the fast one (use_fast=True), or convert it."
        )
    found = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=True,
        verbose=False,
    )
    given = zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
    return [Tokens(text, list(ids), offsets) for text, ids, offsets in given]


def token_ends(tokens: Tokens, whose: str) -> Ends:
    """The places at which a token ends and none goes on.

    Raises: `DataError` for offsets that do not go through the text from its beginning to its end.
    """
    ends: Ends = {0: 0}
    begun = reached = 0
    for number, (start, end) in enumerate(tokens.offsets):
        if not begun <= start <= end <= len(tokens.text):
            raise DataError(
                f"the {whose}'s tokenizer places its token {number + 1} at the characters {start} to {end}, behind one "
                f"at {begun}, of a text of {len(tokens.text)}: {tokens.text[:_SHOWN]!r}. Its offsets do not follow the "
                "text, which aligned tokens need; take a tokenizer whose normalisation keeps them."
            )
        if number and start >= reached:
            ends[reached] = number
        begun, reached = start, max(reached, end)
    if tokens.offsets:
        ends[reached] = len(tokens.offsets)
    return ends


def spans_of(student: Tokens, teacher: Tokens, segments: Sequence[Segment] | None = None) -> list[list[Span]]:
    """The spans of each segment, in order; they are the segment's text, each character once. Without segments both
    texts are the same and are one.

    Raises: `DataError`, as `token_ends`, and where the texts differ.
    """
    if segments is None:
        if student.text != teacher.text:
            raise DataError(
                f"two texts are to be aligned that differ: {student.text[:_SHOWN]!r} and {teacher.text[:_SHOWN]!r}."
            )
        segments = [Segment(0, 0, len(student.text))]
    ours, theirs = token_ends(student, "student"), token_ends(teacher, "teacher")
    return [_spans(_within(ours, student, s.student, s), _within(theirs, teacher, s.teacher, s), s) for s in segments]


def _within(ends: Ends, tokens: Tokens, start: int, segment: Segment) -> Ends:
    """The ends in a segment that begins at `start`, from there on. White space in front of it may be a part of no
    token, or end none."""
    inside = {place - start: number for place, number in ends.items() if start < place <= start + segment.length}
    before = start
    while before not in ends and tokens.text[before - 1].isspace():
        before -= 1
    first = {0: ends[before]} if before in ends else {}
    return first | inside


def _spans(ours: Ends, theirs: Ends, segment: Segment) -> list[Span]:
    """The pieces between ends that both have, and in front of the first and behind the last one what is left."""
    places = sorted(ours.keys() & theirs.keys())
    if not places:
        return _left(0, segment.length, ours, theirs)
    found = _left(0, places[0], ours, theirs) if places[0] else []
    for start, end in zip(places[:-1], places[1:], strict=True):
        found.append(Span(start, end, ours[start], ours[end], theirs[start], theirs[end], True))
    if places[-1] < segment.length:
        found += _left(places[-1], segment.length, ours, theirs)
    return found


def _left(start: int, end: int, ours: Ends, theirs: Ends) -> list[Span]:
    """A piece in which no two tokens end at the same place."""
    inside = [[number for place, number in ends.items() if start <= place <= end] for ends in (ours, theirs)]
    firsts = [min(numbers, default=0) for numbers in inside]
    lasts = [max(numbers, default=0) for numbers in inside]
    return [Span(start, end, firsts[0], lasts[0], firsts[1], lasts[1], False)]
