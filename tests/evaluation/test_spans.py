"""Answers out of the scores of starts and ends: against a search through all spans."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from hf_distill.errors import NonFiniteLoss
from hf_distill.evaluation.spans import Answer, Search, best_answers

CONTEXT = "one two three four five"
STARTS, ENDS = [0, 4, 8, 14, 19], [3, 7, 13, 18, 23]


def window(example: int, first: int, tokens: range, no_answer: int = 0) -> dict[str, Any]:
    """A window over some words of CONTEXT, the first of which is at position `first`."""
    return {
        "example": example,
        "no_answer": no_answer,
        "context_start": first,
        "offset_starts": [STARTS[i] for i in tokens],
        "offset_ends": [ENDS[i] for i in tokens],
    }


def columns(*windows: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [each[name] for each in windows] for name in windows[0]}


def logits(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.asarray(rows, dtype=np.float32)


def test_the_best_span_is_taken_and_starts_before_it_ends() -> None:
    start = logits([[9.0, 9.0, 0.0, 1.0, 5.0, 0.0, 0.0]])  # high scores of the question do not matter
    end = logits([[9.0, 9.0, 6.0, 0.0, 1.0, 3.0, 0.0]])  # the highest end stands before the highest start
    found = best_answers([CONTEXT], columns(window(0, 2, range(5))), start, end, Search())
    assert found == [Answer("three four", 0.0)]


def test_an_answer_has_at_most_so_many_tokens() -> None:
    start, end = logits([[0.0, 5.0, 0.0, 0.0, 1.0, 0.0]]), logits([[0.0, 0.0, 0.0, 0.0, 0.0, 5.0]])
    words = columns(window(0, 1, range(5)))
    assert best_answers([CONTEXT], words, start, end, Search(max_answer_length=5))[0].text == CONTEXT
    assert best_answers([CONTEXT], words, start, end, Search(max_answer_length=4))[0].text == "four five"


def test_the_best_of_several_windows_counts_and_rows_may_stand_in_any_order() -> None:
    words = columns(window(1, 1, range(2, 5)), window(0, 1, range(5)), window(1, 1, range(3)))
    start = logits([[0, 0, 3, 0, 0, 0], [0, 0, 0, 0, 0, 2], [0, 2, 0, 0, 0, 0]])
    end = logits([[0, 0, 3, 0, 0, 0], [0, 0, 0, 0, 0, 2], [0, 2, 0, 0, 0, 0]])
    found = best_answers([CONTEXT, CONTEXT], words, start, end, Search())
    assert [answer.text for answer in found] == ["five", "four"]


def test_no_answer_beats_spans_by_more_than_the_threshold() -> None:
    """Silence scores what it does in the window where that is least, 3; the best span scores 2."""
    words = columns(window(0, 1, range(3)), window(0, 1, range(2, 5)))
    start, end = logits([[2, 1, 0, 0], [4, 0, 0, 0]]), logits([[1, 1, 0, 0], [4, 0, 0, 0]])
    for threshold, text in ((0.0, ""), (0.9, ""), (1.0, "one"), (-5.0, "")):
        search = Search(no_answer=True, threshold=threshold)
        assert best_answers([CONTEXT], words, start, end, search)[0].text == text
    assert best_answers([CONTEXT], words, start, end, Search(threshold=-5.0))[0].text == "one"


def test_the_probability_of_no_answer_is_a_softmax_over_the_best_spans() -> None:
    start, end = logits([[0.5, 1.0, 0.0]]), logits([[0.25, 0.0, 2.0]])
    words = columns(window(0, 1, range(2)))
    spans = [1.0, 3.0, 2.0]  # one; one two; two
    weights = np.exp([0.75, *spans])
    found = best_answers([CONTEXT], words, start, end, Search(no_answer=True))[0]
    assert found.no_answer_probability == pytest.approx(weights[0] / weights.sum(), abs=1e-6)
    best_two = np.exp([0.75, 3.0, 2.0])
    found = best_answers([CONTEXT], words, start, end, Search(no_answer=True, n_best=2))[0]
    assert found.no_answer_probability == pytest.approx(best_two[0] / best_two.sum(), abs=1e-6)


def test_the_same_span_of_two_windows_counts_once() -> None:
    words = columns(window(0, 1, range(1)), window(0, 1, range(1)))
    start, end = logits([[0, 1], [0, 2]]), logits([[0, 0], [0, 0]])
    found = best_answers([CONTEXT], words, start, end, Search(no_answer=True))[0]
    assert found.no_answer_probability == pytest.approx(1 / (1 + np.exp(2)), abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_with_enough_candidates_it_is_the_best_of_all_spans(seed: int) -> None:
    random = np.random.default_rng(seed)
    words = columns(window(0, 2, range(4)), window(0, 1, range(1, 5)))
    start, end = (random.normal(size=(2, 7)).astype(np.float32) for _ in range(2))
    best = (-np.inf, "")
    for row, (first, tokens) in enumerate(((2, range(4)), (1, range(1, 5)))):
        for a in range(4):
            for b in range(a, min(4, a + 3)):
                score = float(start[row, first + a]) + float(end[row, first + b])
                best = max(best, (score, CONTEXT[STARTS[tokens[a]] : ENDS[tokens[b]]]))
    assert best_answers([CONTEXT], words, start, end, Search(max_answer_length=3))[0].text == best[1]


def test_nothing_to_choose_from_is_no_answer() -> None:
    """No start among the best two stands before one of the best two ends."""
    start, end = logits([[0, 0, 0, 0, 5, 5]]), logits([[0, 5, 5, 0, 0, 0]])
    words = columns(window(0, 1, range(5)))
    assert best_answers([CONTEXT], words, start, end, Search(n_best=2)) == [Answer("", 1.0)]


def test_nan_is_told_and_not_answered() -> None:
    start = logits([[0.0, np.nan], [0.0, 1.0]])
    words = columns(window(0, 1, range(1)), window(0, 1, range(1)))
    with pytest.raises(NonFiniteLoss, match="1 of 2 windows are NaN"):
        best_answers([CONTEXT], words, start, start, Search())
