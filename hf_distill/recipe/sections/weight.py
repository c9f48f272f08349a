"""The weight of a term: a number, a schedule over the steps, or learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, PlainValidator, TypeAdapter, model_validator

from hf_distill.errors import DistillationError
from hf_distill.objectives.weights import Learned, Schedule
from hf_distill.recipe.fields import Scale, Share, Weight
from hf_distill.recipe.problems import Problem, fail
from hf_distill.recipe.sections.base import Section


class Slope(Section):
    """From one weight to another, between two shares of the steps."""

    initial: Weight = Field(alias="from")
    """The weight until then."""
    final: Weight = Field(alias="to")
    """The weight from then on."""
    start: Share = 0.0
    stop: Share = 1.0


class EarlyStop(Section):
    """One weight until a share of the steps is over, then another."""

    initial: Weight = Field(default=1.0, alias="from")
    final: Weight = Field(default=0.0, alias="to")
    stop: Share


class Rise(Section):
    """A weight that is reached when a share of the steps is over."""

    final: Weight = Field(default=1.0, alias="to")
    stop: Share


class LearnedWeight(Section):
    """A weight that is learned, by the uncertainty of the term; {} is what `learned` alone says."""

    learning_rate: Scale = 1e-3
    """That of the weight, in place of the student's."""


class VaryingWeight(Section):
    """A weight that is no number: exactly one schedule over the steps, whose start and stop are shares of them, or
    learned."""

    linear: Slope | None = None
    cosine: Slope | None = None
    early_stop: EarlyStop | None = None
    """Such as {stop: 0.5}: the teacher is left out in the second half."""
    warmup: Rise | None = None
    """From 0 in a straight line."""
    ramp_up: Rise | None = None
    """exp(-5 (1 - u)^2) of the weight, u the share of the ramp that is over."""
    learned: LearnedWeight | None = None

    @model_validator(mode="after")
    def _one(self) -> VaryingWeight:
        given = list(self.model_dump())
        if len(given) != 1:
            found = " and ".join(given) or "none of them"
            raise fail([Problem((), f"give exactly one of {', '.join(type(self).keys())}; found {found}.")])
        try:
            self.made()
        except DistillationError as error:
            raise fail([Problem((given[0],), str(error))]) from error
        return self

    def made(self) -> Schedule | Learned:
        """What it says."""
        if self.learned is not None:
            return Learned(self.learned.learning_rate)
        (name,) = self.model_dump()
        settings: dict[str, Any] = getattr(self, name).model_dump()
        make: Callable[..., Schedule] = getattr(Schedule, name)
        return make(**settings)


_NUMERIC_WEIGHT: TypeAdapter[float] = TypeAdapter(Weight, config=ConfigDict(strict=True, allow_inf_nan=False))


def _weight(given: Any) -> Any:
    if isinstance(given, Mapping):
        return VaryingWeight.model_validate(given)
    return given if given == "learned" else _NUMERIC_WEIGHT.validate_python(given)


TermWeight = Annotated[float | VaryingWeight | Literal["learned"], PlainValidator(_weight)]


def weight_schema() -> dict[str, Any]:
    """The JSON schema of a term's weight."""
    kinds = {name: {"type": "object"} for name in VaryingWeight.model_fields}
    varying = {
        "type": "object",
        "properties": kinds,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    return {"anyOf": [{"type": "number", "minimum": 0}, {"const": "learned"}, varying], "default": 1.0}
