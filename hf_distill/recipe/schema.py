"""The sections of a recipe. Numbers may stand in quotes (`"1e-4"`); beyond that nothing is converted or ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hf_distill import objectives
from hf_distill.objectives.terms import Term, Terms
from hf_distill.recipe.fields import (
    Arguments,
    Cell,
    Columns,
    Count,
    Fraction,
    InsidePath,
    Module,
    Names,
    Pattern,
    Scale,
    Seed,
    Sha256,
    StageName,
    TermName,
    Text,
    Weight,
    distinct,
)
from hf_distill.recipe.problems import Problem, fail, shown
from hf_distill.recipe.rules import WEIGHING


class Section(BaseModel):
    """A mapping of a recipe: every key is known, every value has the right kind, and nothing changes afterwards."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=False,
    )

    @classmethod
    def keys(cls) -> list[str]:
        """The keys that may be written here."""
        return [info.alias or name for name, info in cls.model_fields.items()]

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {key: value for key, value in handler(self).items() if value is not None}


class Files(Section):
    """Files of the user's: jsonl, json, csv, tsv or parquet, gzipped or not; relative to the working directory."""

    train: Text
    validation: Text | None = None
    test: Text | None = None


class PackagedFile(Section):
    """One data file inside an installed Python package, which is found without being imported."""

    name: Module
    """The name under which the package is imported."""
    file: InsidePath
    """The path inside the package."""
    sha256: Sha256
    """The SHA-256 digest of the file."""


class Split(Section):
    """What is cut from the training data when the files bring no such split."""

    validation: Fraction = 0.0
    test: Fraction = 0.0
    seed: Seed = 0


class Data(Section):
    """The rows to train on, in place of a GLUE task: exactly one of files and package."""

    files: Files | None = None
    package: PackagedFile | None = None
    where: dict[str, Cell] = {}
    """Keep the rows with these values in these columns."""
    text_columns: Columns
    """One column of text, or two for pairs."""
    label_column: Text
    label_names: Names | None = None
    """The labels in the order of their ids; without them they are taken from the training rows."""
    deduplicate: bool = False
    """Drop rows whose text was there before."""
    split: Split | None = None


class MaxSamples(Section):
    """How many rows of each split are used; all without a number."""

    train: Count | None = None
    validation: Count | None = None
    test: Count | None = None


class PackagedModel(Section):
    """A model folder inside an installed Python package, which is found without being imported."""

    name: Module
    """The name under which the package is imported."""
    folder: InsidePath
    """The path inside the package."""
    sha256: Annotated[dict[InsidePath, Sha256], Field(min_length=1)]
    """The SHA-256 digests of files in the folder."""


class FineTune(Section):
    """Train the teacher on the labels of the task first."""

    arguments: Arguments = {}
    """Arguments of transformers.TrainingArguments."""


class Teacher(Section):
    """The model to learn from: exactly one of model and package."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    package: PackagedModel | None = None
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    fine_tune: FineTune | None = None


def _layers_form(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "count" if isinstance(value, int | str) and not isinstance(value, bool) else None


class FromLayers(Section):
    """A student cut from its teacher."""

    layers: Annotated[
        Annotated[Count, Tag("count")]
        | Annotated[list[Count], Field(min_length=1), AfterValidator(distinct), Tag("list")],
        Discriminator(_layers_form, "layers", "must be a number of layers, or a list of layers counted from 1"),
    ]
    """How many of the teacher's layers, or which, counted from 1."""
    pick: Literal["spread", "uniform", "first", "last", "distilbert"] = "spread"
    """Which layers a number stands for; a list of layers needs no pick."""


class Student(Section):
    """The model to train: exactly one of model and from_layers."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    from_layers: FromLayers | None = None
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""


class WeightedObjective(Section):
    """One term of a stage, written `{soft_targets: {temperature: 2.0}, weight: 5.0, name: soft}`."""

    objective: Any
    settings: Any
    weight: Weight = 1.0
    name: TermName | None = None

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
        return Term(objectives.make(self.objective, self.settings), self.weight, self.name or "")

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it is written in the recipe."""
        named = {} if self.name is None else {"name": self.name}
        return {self.objective: self.settings, "weight": self.weight, **named}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "title": cls.__name__,
            "description": cls.__doc__,
            "type": "object",
            "properties": {"weight": {"type": "number", "minimum": 0, "default": 1.0}, "name": {"type": "string"}},
            "additionalProperties": {"type": "object"},
            "minProperties": 1,
            "maxProperties": 3,
        }


def _setting_named_by(error: Exception, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The setting that the message speaks of first, if any."""
    places = {name: re.search(rf"\b{re.escape(name)}\b", str(error)) for name in settings}
    named = sorted((match.start(), name) for name, match in places.items() if match)
    return (named[0][1],) if named else ()


class TrainGroup(Section):
    """Parameters that train, at a share of the learning rate."""

    parameters: Pattern
    """A regular expression that is searched in the names of the student's parameters."""
    learning_rate_scale: Scale = 1.0


def _train_form(value: Any) -> str | None:
    return "all" if value == "all" else "groups" if isinstance(value, list) else None


class Stage(Section):
    """One training run. Stages follow each other, each with the student of the one before."""

    name: StageName
    objectives: Annotated[list[WeightedObjective], Field(min_length=1)]
    """The terms of the loss."""
    train: Annotated[
        Annotated[Literal["all"], Tag("all")] | Annotated[list[TrainGroup], Field(min_length=1), Tag("groups")],
        Discriminator(
            _train_form, "train", "must be all, or a list of {parameters: pattern, learning_rate_scale: number}"
        ),
    ] = "all"
    """All parameters, or groups of them; the rest is frozen."""
    arguments: Arguments = {}
    """Arguments of transformers.TrainingArguments."""

    def terms(self) -> Terms:
        """New objectives with their weights and names, not yet bound to any models."""
        return Terms([entry.term() for entry in self.objectives])
