"""The kinds of values that a recipe holds."""

from __future__ import annotations

import re
from datetime import date
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema

from hf_distill.data import glue
from hf_distill.recipe import arguments
from hf_distill.recipe.document import as_number
from hf_distill.recipe.problems import Problem, fail, nearest, shown


def _matching(pattern: str, meaning: str) -> AfterValidator:
    """A validator of text; the message says `meaning`."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise fail([Problem((), f"must be {meaning}; given {shown(text)}.")])
        return text

    return AfterValidator(check)


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or not path.parts or re.search(r"[\\:]", text):
        raise fail([Problem((), f"must be a path inside the package, such as data/rows.csv; given {shown(text)}.")])
    return text


GLUE = [task.name for task in glue.TASKS.values() if "train" in task.splits]


def _glue(text: str) -> str:
    if text not in GLUE:
        near = nearest(text, GLUE) or "."
        raise fail(
            [Problem((), f"must be a GLUE task with training rows ({', '.join(GLUE)}); given {shown(text)}{near}")]
        )
    return text


def _cell(value: Any) -> Any:
    if not isinstance(value, str | int | float):
        raise fail([Problem((), f"must be text, a number, true or false; given {shown(value)}.")])
    return value


def distinct(items: list[Any]) -> list[Any]:
    repeated = [item for i, item in enumerate(items) if item in items[:i]]
    if repeated:
        raise fail([Problem((), f"{shown(repeated[0])} is given twice.")])
    return items


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise fail([Problem((), f"is no regular expression: {error}; given {shown(text)}.")]) from error
    return text


def _date(text: str) -> str:
    try:
        found = date.fromisoformat(text).isoformat()
    except ValueError:
        found = ""
    if found != text:  # Python reads other ways to write a day as well
        raise fail([Problem((), f"must be a day as 2024-07-26; given {shown(text)}.")])
    return text


def _arguments(given: dict[str, Any]) -> dict[str, Any]:
    found, problems = arguments.checked(given)
    if problems:
        raise fail(problems)
    return found


_NUMBER = BeforeValidator(lambda value: as_number(value, whole=False))
_WHOLE = BeforeValidator(lambda value: as_number(value, whole=True))
Whole = Annotated[int, _WHOLE]
Count = Annotated[int, Field(ge=1), _WHOLE]
Layer = Annotated[int, Field(ge=0), _WHOLE]
Number = Annotated[float, _NUMBER]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0), _NUMBER]
Share = Annotated[float, Field(ge=0.0, le=1.0), _NUMBER]
Weight = Annotated[float, Field(ge=0.0), _NUMBER]
Scale = Annotated[float, Field(gt=0.0), _NUMBER]
Seed = Annotated[int, Field(ge=0, lt=2**32), _WHOLE]
Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Sha256 = Annotated[str, _matching(r"[0-9a-f]{64}", "a SHA-256 digest: 64 digits 0-9 and a-f")]
Module = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]{0,99}", "the name under which the package is imported")]
InsidePath = Annotated[Text, AfterValidator(_inside)]
Columns = Annotated[list[Text], Field(min_length=1, max_length=2), AfterValidator(distinct)]
Names = Annotated[list[Text], Field(min_length=2), AfterValidator(distinct)]
Pattern = Annotated[Text, AfterValidator(_pattern)]
Arguments = Annotated[dict[str, Any], AfterValidator(_arguments)]
Date = Annotated[str, AfterValidator(_date), Field(json_schema_extra={"format": "date"})]
GlueName = Annotated[str, AfterValidator(_glue), Field(json_schema_extra={"enum": GLUE})]
Cell = Annotated[Any, AfterValidator(_cell), WithJsonSchema({"type": ["string", "number", "boolean"]})]
StageName = Annotated[
    str,
    _matching(
        r"[A-Za-z][A-Za-z0-9_-]{0,63}", "a letter, then up to 63 letters, digits, '_' or '-' (it names a folder)"
    ),
]
TermName = Annotated[
    str, _matching(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", "a letter or '_', then letters, digits, '_' or '-'")
]
