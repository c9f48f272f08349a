"""One term of a stage: an objective with its settings, its weight and its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import (
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_distill import objectives
from hf_distill.objectives.terms import Term
from hf_distill.recipe.fields import TermName
from hf_distill.recipe.problems import Problem, fail, shown
from hf_distill.recipe.sections.base import Section
from hf_distill.recipe.sections.weight import TermWeight, VaryingWeight, weight_schema

WEIGHING = ("weight", "name", "on")
"""The keys beside the objective's own in an entry of `objectives`."""


class WeightedObjective(Section):
    """One term of a stage, written `{soft_targets: {temperature: 2.0}, weight: 5.0, name: soft}`; of several teachers
    `on` names the one that it learns from."""

    objective: Any
    settings: Any
    weight: TermWeight = 1.0
    name: TermName | None = None
    on: TermName | None = None

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that may be written here."""
        return [*WEIGHING, *objectives.names()]

    @model_validator(mode="before")
    @classmethod
    def _unfolded(cls, value: Any) -> Any:
        """Take the one key that names an objective apart; what else is there is left for the schema to refuse."""
        if not isinstance(value, dict):
            return value
        own = [key for key in value if key not in WEIGHING]
        registered = [key for key in own if key in objectives.names()]
        named = registered or [key for key in own if isinstance(value[key], dict)] or own
        named += [
            key for key in own if key in cls.model_fields and key not in named
        ]  # names of ours are none of the format's
        rest = {key: item for key, item in value.items() if key not in named}
        if len(named) == 1:
            return {"objective": named[0], "settings": value[named[0]], **rest}
        return {"objective": named, "settings": None, **rest}

    @field_validator("objective", mode="plain")
    @classmethod
    def _one_objective(cls, given: Any) -> str:
        if not isinstance(given, str):
            found = ", ".join(given) or "none"
            raise fail(
                [Problem((), f"names one objective, as in soft_targets: {{temperature: 2.0}}; found {found}.")], up=1
            )
        return given

    @field_validator("settings", mode="plain")
    @classmethod
    def _made(cls, settings: Any, info: ValidationInfo) -> Any:
        name = info.data.get("objective")
        if name is None:
            return settings
        if not isinstance(settings, dict):
            text = f"must be a mapping of settings, {{}} for none; given {shown(settings)}."
            raise fail([Problem((name,), text)], up=1)
        try:
            objectives.make(name, settings)
        except (ValueError, TypeError) as error:
            raise fail([Problem((name, *_setting_named_by(error, settings)), str(error))], up=1) from error
        return settings

    def term(self) -> Term:
        """The objective with its weight and name."""
        weight = self.weight.made() if isinstance(self.weight, VaryingWeight) else self.weight
        return Term(objectives.make(self.objective, self.settings), weight, self.name or "", self.on or "")

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it is written in the recipe."""
        named = {key: value for key, value in (("name", self.name), ("on", self.on)) if value is not None}
        varies = self.weight if isinstance(self.weight, VaryingWeight) else None
        weight = self.weight if varies is None else varies.model_dump(by_alias=True)
        return {self.objective: self.settings, "weight": weight, **named}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "title": cls.__name__,
            "description": cls.__doc__,
            "type": "object",
            "properties": {
                "weight": weight_schema(),
                "name": {"type": "string"},
                "on": {"type": "string"},
            },
            "additionalProperties": {"type": "object"},
            "minProperties": 1,
            "maxProperties": 4,
        }


def _setting_named_by(error: Exception, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The setting that the message speaks of first, if any."""
    places = {name: re.search(rf"\b{re.escape(name)}\b", str(error)) for name in settings}
    named = sorted((match.start(), name) for name, match in places.items() if match)
    return (named[0][1],) if named else ()
