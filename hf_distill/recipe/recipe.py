"""The whole of a recipe: reading, changing and writing it."""

from __future__ import annotations

import os
from collections.abc import Container, Mapping
from typing import Any, Self

import yaml
from pydantic import Field, PrivateAttr, ValidationError, field_validator, model_validator

from hf_distill.recipe import document, loading, overriding, progressive, rules
from hf_distill.recipe.fields import Count, GlueName, Seed, Text, Whole
from hf_distill.recipe.problems import Origin, Path, Problem, fail, shown
from hf_distill.recipe.sections.base import Section
from hf_distill.recipe.sections.data import Augmentation, Data
from hf_distill.recipe.sections.sources import MaxSamples
from hf_distill.recipe.sections.stage import Stage
from hf_distill.recipe.sections.student import Student
from hf_distill.recipe.sections.teacher import Teacher
from hf_distill.recipe.validation import problems_of

VERSION = 1


class Recipe(Section):
    """Teacher, student, data and stages of a distillation."""

    version: Whole = Field(alias="schema", json_schema_extra={"const": VERSION})
    """The version of this format, 1."""
    task: GlueName | None = None
    """A GLUE task; or give data."""
    data: Data | None = None
    dataset_dir: Text | None = None
    """A folder with copies of the GLUE task's files; without it they come from the Hub."""
    max_length: Count = 128
    """Tokens of a text, the special ones included."""
    max_samples: MaxSamples = MaxSamples()
    augmentation: Augmentation | None = None
    teacher: Teacher | None = None
    student: Student
    stages: list[Stage] = Field(min_length=1)
    control: bool = False
    """Compare with the same student without its teacher: trained on the labels alone, or, where there are none, as it
    starts."""
    seed: Seed = 42

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @field_validator("version")
    @classmethod
    def _readable(cls, version: int) -> int:
        if version != VERSION:
            raise fail([Problem((), f"this release reads schema {VERSION}; given {shown(version)}.")])
        return version

    @model_validator(mode="after")
    def _in_harmony(self) -> Self:
        broken = rules.broken(self.to_dict())
        if broken:
            raise fail(broken)
        return self

    @property
    def source(self) -> str:
        """The path or name that the recipe was loaded from."""
        return self._origin.source

    @classmethod
    def load(cls, path_or_name: str | os.PathLike[str]) -> Self:
        """The recipe in a file (a `Path`, or text ending in .yaml or .yml), or a shipped one by name (`quickstart`).

        Raises: `RecipeError` with every problem, each with its line, its path and what is allowed.
        """
        return cls._of(loading.read(path_or_name))

    @classmethod
    def from_yaml(cls, text: str, source: str = "recipe") -> Self:
        """The recipe in a YAML text. Raises: `RecipeError`, as `load`."""
        return cls._of(document.parse(text, source))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "recipe") -> Self:
        """The recipe in plain values, such as those of a record. Raises: `RecipeError`, as `load`, without lines."""
        return cls._of(document.Document(dict(data) if isinstance(data, Mapping) else data, Origin(source)))

    @classmethod
    def _of(cls, written: document.Document) -> Self:
        data, problems = document.cleaned(written.data)
        problems = written.problems + problems
        if not isinstance(data, dict):
            given = "an empty file" if written.data is None else shown(data)
            raise written.origin.error(
                [Problem((), f"a recipe is a mapping that starts with schema: 1; given {given}.")]
            )
        try:
            recipe = cls.model_validate(data)
        except ValidationError as error:
            found = problems_of(error, data, cls)
            # The rules ran only if nothing else was wrong.
            if any(detail["loc"] for detail in error.errors(include_url=False)):
                found += rules.broken(data)
            problems += _not_following(found, [problem.path for problem in problems])
        if problems:
            raise written.origin.error(dict.fromkeys(problems))
        return recipe._laid_out(written.origin)

    def _laid_out(self, origin: Origin) -> Self:
        """With the stages that a progressive one stands for in its place, each known by the lines of that one."""
        stages = [progressive.stages_of(stage) for stage in self.stages]
        recipe = self.model_copy(update={"stages": [stage for made in stages for stage in made]})
        recipe._origin = Origin(origin.source, progressive.places(origin.places, [len(made) for made in stages]))
        _, problems = document.cleaned(recipe.to_dict())
        if problems:
            raise origin.error([Problem(("stages",), f"with a stage for each layer: {problems[0].text}")])
        return recipe

    def override(self, changes: Mapping[str, Any]) -> Self:
        """The recipe with values changed: `{"stages.distil.arguments.learning_rate": 1e-4, "task": "mrpc"}`.

        A key leads through mappings by their keys and through lists by position (`stages.0`, `stages[0]`) or by the
        name of a stage or term. A mapping replaces what was there; null takes an optional value away.

        Raises: `RecipeError` that names the overrides at fault.
        """
        data = self.to_dict()
        places, problems = overriding.overridden(data, changes)
        keys = ", ".join(shown(key) for key in changes)
        lines = {path: place for path, place in self._origin.places.items() if path and not _is_below(path, places)}
        origin = Origin(f"{self.source}, overridden by {keys}" if changes else self.source, {**lines, **places})
        recipe = self._of(document.Document(data, origin, problems))
        recipe._origin = Origin(self.source, recipe._origin.places)
        return recipe

    def to_dict(self) -> dict[str, Any]:
        """The recipe with its defaults filled in, as plain values."""
        return self.model_dump(by_alias=True)

    def to_yaml(self) -> str:
        """The recipe with its defaults filled in; `from_yaml` gives back an equal one."""
        return yaml.dump(self.to_dict(), Dumper=document.Dumper, sort_keys=False, allow_unicode=True, width=120)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of the format, for editors. It does not list objectives and their settings."""
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **cls.model_json_schema()}


def _is_below(path: Path, others: Container[Path]) -> bool:
    """Whether the path leads to something inside one of the others."""
    return any(path[:end] in others for end in range(1, len(path)))


def _not_following(problems: list[Problem], known: list[Path]) -> list[Problem]:
    """Without the problems that only follow from a value having been left out."""
    return [problem for problem in problems if not any(problem.path[: len(path)] == path for path in known if path)]
