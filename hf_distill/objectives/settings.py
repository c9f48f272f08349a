"""Settings are checked once, where they enter: each of these refuses a value and says what it may be."""

from __future__ import annotations

from collections.abc import Iterable

from hf_distill.errors import DistillationError
from hf_distill.suggestions import did_you_mean


def check_choice(objective: str, setting: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a setting that is none of `choices`, naming the nearest."""
    if value not in choices:
        near = nearest(value, choices)
        raise DistillationError(f"{objective}: {setting} is {value!r}{near}; it may be {', '.join(choices)}.")


def check_flag(objective: str, setting: str, value: object) -> None:
    """Refuse a setting that is neither True nor False."""
    if not isinstance(value, bool):
        raise DistillationError(f"{objective}: {setting} is {value!r}; it may be true or false.")


def check_count(objective: str, setting: str, value: object, low: int) -> None:
    """Refuse a setting that is no whole number from `low` on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise DistillationError(f"{objective}: {setting} is {value!r}; it must be a whole number from {low} on.")


def check_number(
    objective: str, setting: str, value: object, low: float, high: float, *, open_low: bool = False
) -> None:
    """Refuse a setting that is no number between `low` and `high` (NaN, booleans and strings are none)."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (low < value <= high if open_low else low <= value <= high):  # type: ignore[operator]
        bracket = "above" if open_low else "at least"
        raise DistillationError(
            f"{objective}: {setting} is {value!r}; it must be a number {bracket} {low:g} and at most {high:g}."
        )


def nearest(word: object, known: Iterable[str]) -> str:
    """What is said of a word that is none of the known ones, if one of them is near."""
    return did_you_mean(word, known, " (", ")")
