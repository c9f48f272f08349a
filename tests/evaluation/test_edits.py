"""Edit distances against all ways to edit."""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
import pytest

from hf_distill.evaluation.edits import edits, split_at
from hf_distill.evaluation.evidence import Evidence


@cache
def by_recursion(found: str, wanted: str) -> int:
    if not found or not wanted:
        return len(found) + len(wanted)
    replaced = by_recursion(found[1:], wanted[1:]) + (found[0] != wanted[0])
    return min(replaced, by_recursion(found[1:], wanted) + 1, by_recursion(found, wanted[1:]) + 1)


def test_the_least_edits_are_found() -> None:
    texts = ["".join(letters) for length in range(5) for letters in product("ab", repeat=length)]
    for found, wanted in product(texts, texts):
        assert edits(found, wanted) == by_recursion(found, wanted), (found, wanted)
    assert edits("kitten", "sitting") == 3
    assert edits([(1, 2), (3,)], [(1, 2), (4,)]) == 1


def test_words_stand_between_marks() -> None:
    assert split_at([0, 1, 2, 0, 0, 3], 0) == [(1, 2), (3,)]
    assert split_at([], 0) == []


def test_an_error_rate_is_of_all_words() -> None:
    evidence = Evidence("errors", np.asarray([[1.0, 1.0], [0.0, 3.0]]))
    assert evidence.value() == pytest.approx(0.25)
    assert evidence.value(np.asarray([0, 0])) == 1.0
