"""From pydantic's findings to problems in words."""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from hf_distill.recipe.problems import Path, Problem, nearest, shown
from hf_distill.recipe.sections.base import Section

MEANINGS = {
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "list_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "float_type": "a number",
}


def problems_of(error: ValidationError, data: object, root: type[Section]) -> list[Problem]:
    """Every finding of a validation of `data` against `root` as a problem whose path leads through `data`."""
    found: list[Problem] = []
    for detail in error.errors(include_url=False):
        path = _path(detail["loc"], data)
        if detail["type"] == "recipe":
            context = detail["ctx"]
            base = path[: len(path) - context["up"]]
            found += [Problem((*base, *inner.path), inner.text) for inner in context["problems"]]
        else:
            found.append(Problem(path, _wording(detail, path, data, root)))
    return found


def _path(location: Path, data: object) -> Path:
    """The location without the tags that pydantic puts in for members of a union."""
    path: list[str | int] = []
    for part in location:
        if isinstance(part, str) and part.startswith("("):  # the tag of a member that may be a mapping
            continue
        if isinstance(data, Mapping):
            path.append(part)
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int):
            path.append(part)
            data = data[part] if part < len(data) else None
    return tuple(path)


def _wording(detail: ErrorDetails, path: Path, data: object, root: type[Section]) -> str:
    kind, given = detail["type"], detail["input"]
    context = detail.get("ctx", {})
    if kind == "missing":
        return "is missing."
    if kind == "extra_forbidden":
        known = _section(root, path[:-1]).keys()
        return f"unknown key{nearest(path[-1], known) or ';'} The keys here are {', '.join(known)}."
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return f"must be {context['expected']}; given {shown(given)}{nearest(given, choices) or '.'}"
    if kind == "string_type" and isinstance(given, bool | int | float):
        return f"must be text; given the value {shown(given)}: put it in quotes."
    if kind in ("too_short", "too_long"):
        bound = f"at least {context['min_length']}" if kind == "too_short" else f"at most {context['max_length']}"
        return f"must have {bound} {'entry' if bound.endswith(' 1') else 'entries'}; given {shown(given)}."
    if kind in MEANINGS:
        return f"must be {MEANINGS[kind]}; given {shown(given)}."
    return f"{_uncapitalised(detail['msg'])}; given {shown(given)}."


def _uncapitalised(text: str) -> str:
    text = re.sub(r"^(Input|String|List|Dictionary|Value) should", "must", text)
    return text[:1].lower() + text[1:]


def _section(root: type[Section], path: Path) -> type[Section]:
    """The section that a path leads to."""
    section = root
    for part in path:
        if isinstance(part, str):
            inner = {info.alias or name: info.annotation for name, info in section.model_fields.items()}
            section = _section_in(inner.get(part)) or section  # a name of the user's is no field
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    """The model inside an annotation such as `list[Stage]` or `Teacher | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in typing.get_args(annotation):
        found = _section_in(argument)
        if found is not None:
            return found
    return None
