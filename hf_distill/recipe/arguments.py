"""The `arguments` of a stage: names and kinds of `transformers.TrainingArguments`."""

from __future__ import annotations

import dataclasses
import functools
import math
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any

from transformers import TrainingArguments

from hf_distill.recipe.document import as_number
from hf_distill.recipe.problems import Problem, nearest, shown

ELSEWHERE = {
    "output_dir": "the folder is given when the recipe is run",
    "logging_dir": "the folder follows from the output folder",
    "resume_from_checkpoint": "a run resumes by itself, or is told to when it is run",
    "hub_token": "use `hf auth login`",
    "push_to_hub_token": "use `hf auth login`",
}
"""Arguments that a recipe may not hold, and why."""

_COUNT = (lambda number: number >= 1, "1 or more")
_AMOUNT = (lambda number: 0 <= number < math.inf, "0 or more")

RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_steps": (lambda number: number >= 1 or number == -1, "1 or more, or -1 where num_train_epochs decides"),
    "num_train_epochs": (lambda number: 0 < number < math.inf, "above 0"),
    "per_device_train_batch_size": _COUNT,
    "per_device_eval_batch_size": _COUNT,
    "gradient_accumulation_steps": _COUNT,
    "learning_rate": _AMOUNT,
    "weight_decay": _AMOUNT,
}
"""Numbers with which nothing would be trained, or torch would break off in the middle; transformers takes them."""

_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


@functools.cache
def _hints() -> dict[str, Any]:
    hints = typing.get_type_hints(TrainingArguments)
    return {field.name: hints[field.name] for field in dataclasses.fields(TrainingArguments) if field.init}


def checked(arguments: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The arguments, text that reads as a number made one where a number is wanted, and what is wrong with them."""
    found: dict[str, Any] = {}
    problems: list[Problem] = []
    for name, value in arguments.items():
        if name in ELSEWHERE:
            problems.append(Problem((name,), f"may not stand in a recipe: {ELSEWHERE[name]}."))
        elif name not in _hints():
            near = nearest(name, _hints()) or "; see its documentation for the names."
            problems.append(Problem((name,), f"TrainingArguments has no argument {shown(name)}{near}"))
        else:
            found[name], fault = _fitted(value, _hints()[name])
            fault = fault or _out_of_range(name, found[name])
            if fault:
                problems.append(Problem((name,), fault))
    return found, problems


def _out_of_range(name: str, value: Any) -> str:
    holds, meaning = RANGES.get(name, (lambda number: True, ""))
    return "" if holds(value) else f"must be {meaning}; given {shown(value)}."


def _fitted(value: Any, hint: Any) -> tuple[Any, str]:
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    choices = [
        member.value for kind in members if isinstance(kind, type) and issubclass(kind, Enum) for member in kind
    ]
    if choices:
        fault = f"must be one of {', '.join(choices)}; given {shown(value)}{nearest(value, choices)}"
        return value, "" if value in choices else fault
    kinds = [_kind(member) for member in members]
    if any(kind is not NoneType and kind not in _KINDS for kind in kinds):
        return value, ""  # an object of transformers or accelerate, which checks it itself
    if isinstance(value, str) and str not in kinds:
        value = as_number(value, whole=float not in kinds) if float in kinds or int in kinds else value
    if type(value) in kinds or (type(value) is int and float in kinds):
        return value, ""
    allowed = " or ".join("null" if kind is NoneType else _KINDS[kind] for kind in kinds)
    return value, f"must be {allowed}; given {shown(value)}."


def _kind(hint: Any) -> Any:
    if typing.get_origin(hint) is typing.Literal:
        return type(typing.get_args(hint)[0])
    return typing.get_origin(hint) or hint
