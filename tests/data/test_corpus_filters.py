"""Which of a teacher's texts are learned, and what the others fell to."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hf_distill.data.corpus_filters import Filters, filtered, repetition
from hf_distill.teachers.generation import Hypothesis


def text(words: str, score: float = -1.0, ids: tuple[int, ...] | None = None) -> Hypothesis:
    return Hypothesis(words, tuple(range(len(words.split()) + 1)) if ids is None else ids, score, True)


ROWS = [
    [text("a b c d", -1.0), text("a b", -3.0), text("x y z", -8.0)],
    [text("a  b c d", -2.0), text("q r s t u v", -1.0)],
    [text("m n", -1.5)],
]
REFERENCES = ["a b c d", "q r s t u v", "o p"]


@pytest.mark.parametrize(
    ("settings", "kept", "dropped"),
    [
        ({}, ["a b c d", "a b", "x y z", "a  b c d", "q r s t u v", "m n"], {}),
        ({"min_tokens": 4}, ["a b c d", "x y z", "a  b c d", "q r s t u v"], {"below min_tokens": 2}),
        ({"max_tokens": 4}, ["a b", "x y z", "m n"], {"above max_tokens": 3}),
        ({"distinct": True}, ["a b c d", "a b", "x y z", "q r s t u v", "m n"], {"written before": 1}),
        # by token -0.2, -1, -2; -0.4, -1/7; -0.5
        ({"min_mean_log_probability": -0.5}, ["a b c d", "a  b c d", "q r s t u v", "m n"],
         {"below min_mean_log_probability": 2}),
        ({"min_similarity": 0.9}, ["a b c d", "q r s t u v"], {"below min_similarity": 4}),
        ({"min_tokens": 4, "min_similarity": 0.9, "distinct": True}, ["a b c d", "q r s t u v"],
         {"below min_tokens": 2, "below min_similarity": 2}),
    ],
)  # fmt: skip
def test_each_text_falls_to_the_first_of_its_faults(
    settings: dict[str, Any], kept: list[str], dropped: dict[str, int]
) -> None:
    found, counts = filtered(ROWS, REFERENCES, Filters(**settings))
    assert [each.text for row in found for each in row] == kept
    assert counts == dropped
    assert len(found) == len(ROWS)


def test_repetition_is_the_share_of_runs_of_four_that_were_there() -> None:
    assert repetition([1, 2, 3]) == 0.0
    assert repetition([1, 2, 3, 4, 5]) == 0.0
    assert repetition([7] * 8) == pytest.approx(1 - 1 / 5)
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 - 4 / 5)
    loop = [[text("la la", ids=(7,) * 8)], [text("fine", ids=(1, 2, 3, 4, 5))]]
    found, counts = filtered(loop, ["", ""], Filters(max_repetition=0.5))
    assert [len(row) for row in found] == [0, 1]
    assert counts == {"above max_repetition": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"min_tokens": 0},
        {"max_repetition": 1.5},
        {"min_similarity": -0.1},
        {"min_mean_log_probability": 0.5},
        {"longest": 3},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Filters(**settings)
