"""Where two tokenizations of the same text have the ends of tokens in common.

Tokens are placed by the characters of the original text that they stand for, so that it does not matter how a
tokenizer writes them: lower case, without accents, as bytes, with marks for words. A token takes the text from the end
of the one before it to its own end; what no token stands for, as white space to WordPiece, goes with the token behind
it. A token ends where a character ends: bytes of one character that are several tokens are one piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from tokenizers import Tokenizer
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
    """A piece of text that both sides have, from the character `student` of one text and `teacher` of the other."""

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


class Reader:
    """Reads texts without special tokens, however long they are, as `tokenizer` does.

    What comes after the tokenization itself is left out: it adds special tokens, and takes white space off what bytes
    of byte-level BPE stand for.

    Raises: `IncompatiblePair` for a tokenizer that does not say where in a text its tokens are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, role: str) -> None:
        if not tokenizer.is_fast:
            raise IncompatiblePair(
                f"the {role}'s {type(tokenizer).__name__} is a slow tokenizer, which does not say where in a text its "
                "tokens are; texts are aligned by that. Load the fast one (use_fast=True), or convert it."
            )
        self.tokenizer, self.role = tokenizer, role
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.post_processor = None
        self._backend.no_truncation()
        self._backend.no_padding()
        self._compared = False

    def __call__(self, texts: list[str]) -> list[Tokens]:
        """The tokens of each text.

        Raises: `IncompatiblePair` where the tokenizer itself reads the first text otherwise.
        """
        encoded = self._backend.encode_batch(texts, add_special_tokens=False)
        found = [Tokens(text, each.ids, each.offsets) for text, each in zip(texts, encoded, strict=True)]
        if found and not self._compared:
            self._compare(found[0])
        return found

    def _compare(self, first: Tokens) -> None:
        ids = self.tokenizer(first.text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
        if list(ids) != first.ids:
            raise IncompatiblePair(
                f"the {self.role}'s {type(self.tokenizer).__name__} reads {first.text[:_SHOWN]!r} as {ids[:8]} …, and "
                f"what it is made of (backend_tokenizer) as {first.ids[:8]} …, so its tokens cannot be placed in the "
                "text; take a tokenizer without Python code of its own."
            )
        self._compared = True


def token_ends(tokens: Tokens, whose: str) -> Ends:
    """The places at which a token ends and none goes on.

    Raises: `DataError` for offsets that do not go through the text from its beginning to its end.
    """
    ends: Ends = {0: 0}
    begun = reached = 0
    for number, (start, end) in enumerate(tokens.offsets):
        if not begun <= start <= end <= len(tokens.text):
            raise DataError(
                f"the {whose}'s tokenizer places its token {number + 1} at the characters {start} to {end}, behind "
                f"one at {begun}, of a text of {len(tokens.text)}: {tokens.text[:_SHOWN]!r}. Its offsets do not "
                "follow the text, which aligned tokens need; take a tokenizer whose normalisation keeps them."
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
    for start, end in pairwise(places):
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
