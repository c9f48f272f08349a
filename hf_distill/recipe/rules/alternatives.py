"""Where a recipe gives one thing in several ways, it gives exactly one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_distill.recipe.problems import Path, Problem
from hf_distill.recipe.rules.data import KINDS, SOURCES
from hf_distill.recipe.rules.models import MADE
from hf_distill.recipe.rules.reading import members, section_of, students
from hf_distill.recipe.rules.teacher import TEACHERS


def exactly_one(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Of some keys exactly one is given."""
    for path, keys in (
        ((), ("task", "data")),
        *([] if section_of(data, "data", "text") else [(("data",), SOURCES)]),
        (("data",), KINDS),
        (("teacher",), TEACHERS),
        (("student",), ("model", *MADE)),
    ):
        if not path or isinstance(data.get(path[0]), Mapping):
            yield from _one_of(path, section_of(data, *path), keys)
    for here, member in members(data):
        yield from _one_of(here, member, ("model", "package"))
    for here, student in students(data)[1:]:
        yield from _one_of(here, student, ("model", *MADE))


def _one_of(path: Path, section: Mapping[str, Any], keys: Sequence[str]) -> Iterator[Problem]:
    given = [key for key in keys if section.get(key) is not None]
    if len(given) != 1:
        found = " and ".join(given) if given else "neither" if len(keys) == 2 else "none of them"
        yield Problem(path, f"give exactly one of {', '.join(keys[:-1])} and {keys[-1]}; found {found}.")
