"""Changes to a recipe by dotted keys, as command lines make them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hf_distill.recipe.problems import Path, Problem, nearest, shown
from hf_distill.recipe.sections.objective import WEIGHING


def overridden(data: dict[str, Any], changes: Mapping[str, Any]) -> tuple[dict[Path, str], list[Problem]]:
    """Change `data` in place. Returns which override each changed path came from, and the keys that lead nowhere."""
    places: dict[Path, str] = {}
    problems: list[Problem] = []
    for key, value in changes.items():
        label = f"override {shown(key, 300)}"
        try:
            path = _set(data, key, value)
        except _DeadEndError as error:
            problems.append(Problem((), f"{label}: {error}"))
        else:
            for inner in [place for place in places if place[: len(path)] == path]:
                del places[inner]
            places[path] = label
    return places, problems


class _DeadEndError(Exception):
    """A key cannot be followed; the text says where it ends."""


def _set(data: dict[str, Any], key: str, value: Any) -> Path:
    """Set the value that a dotted key leads to, making mappings on the way, and return its path."""
    parts = re.sub(r"\[(\d+)\]", r".\1", key).split(".") if isinstance(key, str) else [""]
    if not all(parts):
        raise _DeadEndError("a key is words joined by dots, such as stages.distil.arguments.learning_rate.")
    here: Any = data
    path: list[str | int] = []
    for i, part in enumerate(parts):
        step = _step(here, part, ".".join(parts[:i]))
        path.append(step)
        if i == len(parts) - 1:
            here[step] = value
        elif isinstance(here, dict) and here.get(step) is None:
            here[step] = {}
        here = here[step]
    return tuple(path)


def _step(here: Any, part: str, before: str) -> str | int:
    """The key, or the position in a list: its number, or the name of a stage or objective."""
    if isinstance(here, dict):
        return part
    if not isinstance(here, list):
        raise _DeadEndError(f"{before} is {shown(here)} and holds no {part!r}.")
    if part.isascii() and part.isdigit():
        if int(part) < len(here):
            return int(part)
        raise _DeadEndError(f"{before} has {len(here)} entries, counted from 0; there is no {part}.")
    names = [_name(item) for item in here]
    if names.count(part) == 1:
        return names.index(part)
    listed = ", ".join(name for name in names if name) or "none"
    if part in names:
        raise _DeadEndError(f"{before} has several entries named {part!r}; use its position, counted from 0.")
    raise _DeadEndError(f"{before} has no entry named {part!r}{nearest(part, names) or ';'} the names are {listed}.")


def _name(item: Any) -> str:
    """The name of a stage or of a term: its own, or that of its objective."""
    if not isinstance(item, dict):
        return ""
    own = [key for key in item if key not in WEIGHING]
    name = item.get("name") or (own[0] if len(own) == 1 else "")
    return name if isinstance(name, str) else ""
