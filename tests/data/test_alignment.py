"""Spans of a text between two tokenizations, with small real tokenizers of three kinds."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_distill.data.alignment import Reader, Segment, Span, Tokens, spans_of, token_ends
from hf_distill.errors import DataError, IncompatiblePair
from tests.tokenizers_of_kinds import CORPUS, KINDS, tokenizer

READERS = {kind: Reader(tokenizer(kind), "student") for kind in KINDS}
PAIRS = [(ours, theirs) for ours in KINDS for theirs in KINDS]
PIECES = (
    "the", " dog", "Naïve", "e\u0301", "\u200d", "👍🏽", "👩‍👧", "שלום", "مرحبا", "ﬁ", "½", " ", "  ", "\t", "\n",
    "\r\n", "\u00a0", "\u3000", "1", ".", "[SEP]", "<|end|>", "▁", "##",
)  # fmt: skip
TEXTS = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(codec="utf-8")), max_size=12).map("".join)


def aligned(text: str, ours: str, theirs: str) -> tuple[Tokens, Tokens, list[Span]]:
    both = [READERS[kind]([text])[0] for kind in (ours, theirs)]
    (spans,) = spans_of(*both)
    return both[0], both[1], spans


@settings(max_examples=60, deadline=None)
@given(text=TEXTS, kinds=st.sampled_from(PAIRS))
def test_spans_are_the_text_once_and_in_order(text: str, kinds: tuple[str, str]) -> None:
    ours, theirs, spans = aligned(text, *kinds)
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(one.end == other.start for one, other in pairwise(spans))
    assert [number for s in spans for number in range(s.student, s.student_end)] == list(range(len(ours.ids)))
    assert [number for s in spans for number in range(s.teacher, s.teacher_end)] == list(range(len(theirs.ids)))
    for span in spans:
        assert span.start < span.end
        both = span.student < span.student_end and span.teacher < span.teacher_end
        assert both or not span.aligned
    assert [span.aligned for span in spans[:-1]] == [True] * len(spans[:-1])


@pytest.mark.parametrize("kind", ["bpe", "wordpiece"])
def test_a_tokenizer_answers_to_itself_token_by_token(kind: str) -> None:
    for text in CORPUS[:3]:
        ours, _, spans = aligned(text, kind, kind)
        assert len(spans) == len(ours.ids)
        assert all(s.student_end - s.student == s.teacher_end - s.teacher == 1 for s in spans)


def test_spans_end_where_both_have_the_end_of_a_token() -> None:
    """Every shorter piece would cut a token of one of them, by a search over all places of the text."""
    for text in CORPUS:
        ours, theirs, spans = aligned(text, "wordpiece", "bpe")
        ends = [{end for _, end in side.offsets} for side in (ours, theirs)]
        assert [span.end for span in spans] == sorted(ends[0] & ends[1])


def test_lower_case_and_accents_are_placed_in_the_text_as_it_was() -> None:
    text = "Déjà CAFÉ"
    ours, theirs, spans = aligned(text, "wordpiece", "bpe")
    words = "".join(tokenizer("wordpiece").convert_ids_to_tokens(ours.ids)).replace("##", "")
    assert words == "dejacafe"
    assert text[spans[0].start : spans[0].end] in ("D", "Dé", "Déj", "Déjà")
    assert tokenizer("bpe").decode(theirs.ids) == text


def test_bytes_of_one_character_are_one_piece() -> None:
    ours, theirs, spans = aligned("👍", "unigram", "bpe")
    assert len(theirs.ids) > 1
    assert [(s.start, s.end, s.teacher_end) for s in spans] == [(0, 1, len(theirs.ids))]
    assert spans[0].student_end == len(ours.ids)


def test_white_space_that_one_side_does_not_know_is_left_over() -> None:
    _, theirs, spans = aligned("the dog \n", "wordpiece", "bpe")
    assert [span.aligned for span in spans][-2:] == [True, False]
    last = spans[-1]
    assert last.student == last.student_end
    assert (last.start, last.end, last.teacher_end) == (7, 9, len(theirs.ids))


def test_segments_are_aligned_within_texts_that_differ() -> None:
    ours = Tokens("<u>hello there</u>", [1, 2, 3, 4], [(0, 3), (3, 8), (8, 14), (14, 18)])
    theirs = Tokens("U: hello there\n", [5, 6, 7, 8, 9], [(0, 2), (3, 6), (6, 8), (8, 14), (14, 15)])
    (spans,) = spans_of(ours, theirs, [Segment(3, 3, 11)])
    assert spans == [Span(0, 5, 1, 2, 1, 3, True), Span(5, 11, 2, 3, 3, 4, True)]


def test_a_token_across_the_beginning_of_a_segment_is_left_over() -> None:
    ours = Tokens("ab cd", [1, 2], [(0, 2), (2, 5)])
    theirs = Tokens("xab cd", [5, 6], [(0, 3), (3, 6)])
    (spans,) = spans_of(ours, theirs, [Segment(0, 1, 5)])
    assert [(s.start, s.end, s.aligned) for s in spans] == [(0, 2, False), (2, 5, True)]


def test_offsets_that_do_not_follow_the_text_are_refused() -> None:
    for offsets in ([(0, 2), (1, 9)], [(2, 3), (0, 1)], [(2, 1)]):
        with pytest.raises(DataError, match="student's tokenizer places its token"):
            token_ends(Tokens("abc", [1, 2], offsets), "student")


def test_texts_that_differ_are_refused() -> None:
    with pytest.raises(DataError, match="'a' and 'b'"):
        spans_of(Tokens("a", [1], [(0, 1)]), Tokens("b", [1], [(0, 1)]))


def test_a_slow_tokenizer_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(IncompatiblePair, match="student's Slow is a slow tokenizer"):
        Reader(Slow(), "student")  # type: ignore[arg-type]
