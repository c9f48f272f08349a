"""The metadata block of a card, checked without the network."""

from __future__ import annotations

import re
import reprlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from hf_distill.errors import HubError
from hf_distill.hub.markdown import line
from hf_distill.hub.record import is_hub_id

FILE_NAME = "README.md"
MAX_BRACKETS = 500
"""Deep nesting takes the parser seconds; no card needs this many."""

RELATIONS = ("adapter", "merge", "quantized", "finetune")
"""What the Hub's tree of models knows."""

_NOT_MADE = (ValueError, ArithmeticError, LookupError, AttributeError, TypeError)
"""What PyYAML lets through of values that are not what they are written as: a 30th of February, `!!int abc`."""

_FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual")
_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def check(text: str) -> None:
    """Check the metadata of a card as far as that goes without the network: its form, identifiers and numbers.

    Raises:
        HubError: naming every key at fault with what was found.
    """
    found = metadata_of(text)
    problems = [
        *_wrong_identifiers(found),
        *_wrong_results(found.get("model-index")),
        *_wrong_emissions(found.get("co2_eq_emissions")),
    ]
    if problems:
        raise HubError(
            f"The metadata of {FILE_NAME} is not valid:\n" + "\n".join(f"- {problem}" for problem in problems)
        )


def metadata_of(text: str) -> dict[str, Any]:
    """The metadata block of a card, which may come from anybody.

    Raises: `HubError` where there is none, or none that is keys with values.
    """
    match = _FRONT_MATTER.match(text)
    if not match:
        raise HubError(f"{FILE_NAME} has no metadata: it must begin with a block between two lines of '---'.")
    if sum(map(match.group(1).count, "[{")) > MAX_BRACKETS:
        raise HubError(f"The metadata of {FILE_NAME} has more than {MAX_BRACKETS} brackets; write lists as lines.")
    try:
        found = yaml.safe_load(match.group(1))
    except (yaml.YAMLError, RecursionError) as error:
        raise HubError(f"The metadata of {FILE_NAME} is not YAML: {line(str(error))}.") from error
    except _NOT_MADE as error:
        raise HubError(
            f"The metadata of {FILE_NAME} cannot be read: a value is not what it is written as "
            f"({type(error).__name__}: {line(str(error))}); correct it, or put it in quotes."
        ) from error
    if not isinstance(found, dict):
        raise HubError(f"The metadata of {FILE_NAME} is a {type(found).__name__}; it must be keys with values.")
    return found


def _wrong_identifiers(found: Mapping[str, Any]) -> Iterable[str]:
    hub_id = (is_hub_id, "the name of a repository on the Hub")
    identifier = (_IDENTIFIER.fullmatch, "an identifier")
    rules: dict[str, tuple[Any, str, bool]] = {
        "language": (_LANGUAGE.fullmatch, "a language tag such as 'en'", True),
        "license": (*identifier, False),
        "library_name": (*identifier, False),
        "pipeline_tag": (*identifier, False),
        "base_model": (*hub_id, True),
        "base_model_relation": (RELATIONS.__contains__, f"one of {', '.join(RELATIONS)}", False),
        "datasets": (*hub_id, True),
        "metrics": (*identifier, True),
        "tags": (line, "text", True),
    }
    for key, (is_right, what, may_be_list) in rules.items():
        value = found.get(key)
        values = value if may_be_list and isinstance(value, list) else [] if value is None else [value]
        for item in values:
            if not isinstance(item, str) or not is_right(item):
                yield f"{key}: {_shown(item)} is not {what}"


def _wrong_results(index: Any) -> Iterable[str]:
    if index is None:
        return
    try:
        results = [result for model in index for result in model["results"] if isinstance(model["name"], str)]
        values = [
            (f"{result['task']['type']}, {result['dataset']['type']}, {metric['type']}", metric["value"])
            for result in results
            for metric in result["metrics"]
        ]
    except (TypeError, KeyError, ValueError) as error:
        yield f"model-index: does not have the form of evaluation results ({line(repr(error))})"
        return
    for place, value in values:
        if not _is_finite(value):
            yield f"model-index: the value of ({line(place)}) is {_shown(value)}, not a finite number"


def _wrong_emissions(found: Any) -> Iterable[str]:
    value = found.get("emissions") if isinstance(found, dict) else found
    if value is not None and not (_is_finite(value) and value >= 0):
        yield f"co2_eq_emissions: {_shown(value)} is not a number of grams"


def _is_finite(value: Any) -> bool:
    """Whether it is a number that a float holds; whole numbers of YAML have any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _shown(value: Any) -> str:
    try:
        return line(reprlib.repr(value))
    except ValueError:  # Python writes no whole number of thousands of digits
        return f"{type(value).__name__} of too many digits"
