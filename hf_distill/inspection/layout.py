"""Plain text, 100 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

WIDTH = 100


def item(name: str, text: str, *, indent: int = 2, column: int = 12) -> list[str]:
    """A name and what is said of it, in lines that begin below each other."""
    head = f"{' ' * indent}{name}{' ' if len(name) >= column > 0 else ''}".ljust(indent + column)
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=head,
        subsequent_indent=" " * (indent + column),
        break_long_words=False,
        break_on_hyphens=False,
    ) or [head.rstrip()]


def title(text: str) -> list[str]:
    """A heading with a line below."""
    return ["", text, "-" * min(len(text), WIDTH)]


def listed(names: Sequence[object], most: int = 8) -> str:
    """The first of some names, and how many there are further."""
    shown = ", ".join(map(str, names[:most]))
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def number_of(number: int, what: str) -> str:
    """`1 layer`, `2 layers`."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def amount(number: float) -> str:
    """A count in three digits: 11.2 M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.0f}"


def size(number: float) -> str:
    """Bytes in three digits, by powers of 1000 as disks are sold: 91.3 MB."""
    return f"{amount(number)}B" if number >= 1e3 else f"{number:.0f} B"
