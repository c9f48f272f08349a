"""What is wrong with a recipe, where it stands, and how it is said. Nothing secret is ever said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from pydantic_core import PydanticCustomError

from hf_distill.access_tokens import redacted
from hf_distill.errors import RecipeError
from hf_distill.suggestions import did_you_mean

Path = tuple[str | int, ...]
"""The keys and list positions that lead to a value, as in `("stages", 0, "name")`."""

MAX_SHOWN = 60
MAX_LISTED = 100


class Problem(NamedTuple):
    """One thing that is wrong."""

    path: Path
    text: str


@dataclass(frozen=True)
class Origin:
    """Where a recipe was written: the file or name, and for every path the line or the override it came from.

    All origins are equal: two recipes that say the same are the same.
    """

    source: str = field(default="recipe", compare=False)
    places: Mapping[Path, str] = field(default_factory=dict, compare=False)

    def place(self, path: Path) -> str:
        """The line or override of a path, or of the nearest thing around it; empty when there is none."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return ""

    def error(self, problems: Iterable[Problem]) -> RecipeError:
        """All the problems in one error, in the order of the file."""
        listed = sorted(problems, key=lambda problem: _order(self.place(problem.path)))
        lines = [self._line(problem) for problem in listed[:MAX_LISTED]]
        if len(listed) > MAX_LISTED:
            lines.append(f"and {len(listed) - MAX_LISTED} more.")
        if len(lines) == 1:
            return RecipeError(redacted(f"{self.source}: {lines[0]}"))
        return RecipeError(redacted("\n  ".join([f"{self.source}: {len(listed)} problems", *lines])))

    def _line(self, problem: Problem) -> str:
        where = ", ".join(part for part in (self.place(problem.path), shown_path(problem.path)) if part)
        return f"{where}: {problem.text}" if where else problem.text


def _order(place: str) -> tuple[int, str]:
    line = re.fullmatch(r"line (\d+)", place)
    return (int(line.group(1)) if line else 0, place)


def nearest(word: object, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing when no known word is near."""
    return did_you_mean(word, known, "; ")


def shown(value: object, longest: int = MAX_SHOWN) -> str:
    """A value in a message: short, on one line, with what lists and mappings hold left out."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = redacted(str(value).lower() if isinstance(value, bool) else repr(value))
    return text if len(text) <= longest else text[: longest - 3] + "..."


def shown_path(path: Path) -> str:
    """The path as one writes it: `stages[0].objectives[1].weight`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]{1,60}", part):
            text += f".{part}"
        else:
            text += f"[{shown(part)}]"
    return text.removeprefix(".")


def fail(problems: Iterable[Problem], up: int = 0) -> PydanticCustomError:
    """The error that a validator raises for several problems; their paths start `up` levels above the field."""
    return PydanticCustomError("recipe", "the recipe has problems", {"problems": list(problems), "up": up})
