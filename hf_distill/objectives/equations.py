"""The equation of an objective, as its documentation writes it."""

from __future__ import annotations

import inspect
import re

BEGINS = re.compile(r"(?:^|(?<=[\s(,:;]))(?:L|L_k) = ", re.MULTILINE)
"""Where an equation begins."""

ENDS = re.compile(r"[.:](?=\s+[A-Z`]|\s*$)")
"""Where its sentence may end, outside brackets."""


def documented_equation(objective: type) -> str:
    """The sentence of a class's documentation that says what L is, on one line and from there on; empty where there
    is none.
    """
    for paragraph in (inspect.getdoc(objective) or "").split("\n\n"):
        found = BEGINS.search(paragraph)
        if found is not None:
            return _first_sentence(" ".join(paragraph[found.start() :].split()))
    return ""


def _first_sentence(text: str) -> str:
    for match in ENDS.finditer(text):
        before = text[: match.start()]
        if before.count("(") == before.count(")"):
            return before
    return text
