"""The known word that somebody may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 60
"""Letters of an unknown word that are looked at; it may come from anywhere."""


def closest(word: object, known: Iterable[str], most: int = 5) -> list[str]:
    """The known words that are near to an unknown one, the nearest first."""
    return difflib.get_close_matches(str(word)[:LONGEST], list(known), n=most, cutoff=0.5)


def nearest(word: object, known: Iterable[str]) -> str | None:
    """The one of the known words that is nearest to an unknown one, None where none is near."""
    close = difflib.get_close_matches(str(word)[:LONGEST], list(known), n=1)
    return close[0] if close else None


def did_you_mean(word: object, known: Iterable[str], before: str, after: str = "") -> str:
    """`did you mean 'x'?` between `before` and `after`, or nothing where no known word is near."""
    near = nearest(word, known)
    return "" if near is None else f"{before}did you mean {near!r}?{after}"
