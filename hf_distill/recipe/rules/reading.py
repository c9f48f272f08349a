"""Reads a recipe as plain data, in which anything may have the wrong shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill import objectives
from hf_distill.recipe.problems import Path


def section_of(data: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The mapping that the keys lead to, empty where there is none."""
    value: Any = data
    for key in keys:
        value = value.get(key)
        if not isinstance(value, Mapping):
            return {}
    return value  # type: ignore[no-any-return]


def items(value: Any) -> list[Any]:
    """What is in a list, nothing where the value is none."""
    return value if isinstance(value, list) else []


def mappings(value: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """The mappings in a list, each with its position."""
    return [(i, item) for i, item in enumerate(items(value)) if isinstance(item, Mapping)]


def members(data: Mapping[str, Any]) -> list[tuple[Path, Mapping[str, Any]]]:
    """The members of several teachers, and where they stand."""
    found = section_of(data, "teacher", "ensemble", "members")
    return [(("teacher", "ensemble", "members", n), m) for n, m in found.items() if isinstance(m, Mapping)]


def students(data: Mapping[str, Any]) -> list[tuple[Path, Mapping[str, Any]]]:
    """The student of the recipe, then those that stages start with, and where they stand."""
    stages = [(i, stage.get("student")) for i, stage in mappings(data.get("stages"))]
    own = [(("stages", i, "student"), student) for i, student in stages if isinstance(student, Mapping)]
    return [(("student",), section_of(data, "student")), *own]


def comparing(stage: Mapping[str, Any]) -> list[tuple[int, str]]:
    """The terms of a stage that compare the student with a teacher: their positions, and the names of objectives."""
    named = [(j, name) for j, entry in mappings(stage.get("objectives")) for name in entry]
    return [(j, name) for j, name in named if name in objectives.names() and objectives.get(name).needs_teacher]
