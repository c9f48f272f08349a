"""How near one sentence is to another."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

LONGEST = 4
"""Words of the longest n-gram."""


def sentence_bleu(found: str, reference: str) -> float:
    """BLEU of one sentence against one reference (Papineni et al., 2002), smoothed, from 0 to 1.

    The geometric mean over n = 1 .. 4 of the share of n-grams of `found` that stand in `reference`, each as often at
    most as there, times exp(1 - r / c) where `found` has c < r words, those of the reference. For n > 1 one is added
    to the number of n-grams and to those that are right (Lin & Och, 2004), so that a short sentence without a common
    n-gram of four words is not 0; without a common word it is 0. Words are what blanks separate.
    """
    ours, theirs = found.split(), reference.split()
    matched = [_matches(ours, theirs, n) for n in range(1, LONGEST + 1)]
    if not ours or matched[0] == 0:
        return 0.0
    numbers = [max(len(ours) - n + 1, 0) for n in range(1, LONGEST + 1)]
    added = [0, *[1] * (LONGEST - 1)]
    logs = [math.log((m + a) / (k + a)) for m, k, a in zip(matched, numbers, added, strict=True)]
    return math.exp(sum(logs) / LONGEST + min(0.0, 1.0 - len(theirs) / len(ours)))


def _matches(ours: Sequence[str], theirs: Sequence[str], n: int) -> int:
    return (_grams(ours, n) & _grams(theirs, n)).total()


def _grams(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
