"""What trains in a stage: which parameters, layer by layer, on a grid of values, or adapters beside them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from hf_distill.recipe.fields import Count, Layer, Pattern, Scale, Text, distinct
from hf_distill.recipe.rules.progressive import MAX_LAYERS
from hf_distill.recipe.sections.base import Section


class TrainGroup(Section):
    """Parameters that train, at a share of the learning rate: exactly one of parameters, layers and part."""

    parameters: Pattern | None = None
    """A regular expression that is searched in the names of the student's parameters."""
    layers: Annotated[list[Layer], Field(min_length=1), AfterValidator(distinct)] | None = None
    """Layers of the student, counted from 1; 0 is the embeddings."""
    part: Literal["head"] | None = None
    """What stands on top of the base model, such as a classifier, in whatever family."""
    learning_rate_scale: Scale = 1.0


def _below_form(value: Any) -> str | None:
    if value == "frozen":
        return "frozen"
    return "scale" if isinstance(value, int | float | str) and not isinstance(value, bool) else None


class Progressive(Section):
    """A stage for each layer of the student, from the first one up. At stage l the objectives compare layer l alone,
    and layer l trains, at the first stage the embeddings as well."""

    layers: Annotated[Count, Field(le=MAX_LAYERS)]
    """How many layers, and stages."""
    teacher_layers: list[Count] | None = None
    """The teacher's layer for each; the same numbers as the student's without it."""
    below: Annotated[
        Annotated[Literal["frozen"], Tag("frozen")] | Annotated[Scale, Tag("scale")],
        Discriminator(_below_form, "below", "must be frozen, or a share of the learning rate such as 0.1"),
    ] = 0.1
    """What becomes of the layers below, whose stage is over."""


class QuantizeUniform(Section):
    """Quantized distillation: the stage trains floats, and computes with their values on a uniform grid, which are
    what is saved; {} is 4 bits in buckets of 256."""

    bits: Annotated[Count, Field(le=8)] = 4
    bucket_size: Annotated[Count, Field(ge=2)] = 256
    """Values that share a scale."""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    style: Literal["ste", "truncated", "scale"] = "ste"
    """How gradients reach the floats."""
    include_embeddings: bool = True
    include_head: bool = False
    """Also what stands on top of the base model, such as a classifier."""


class QuantizePoints(Section):
    """Differentiable quantization: the weights stay as they are, each at the nearest of a few points, and the points
    alone train; {} is 16 points in buckets of 256."""

    points: Annotated[Count, Field(ge=2, le=256)] = 16
    """Points for each tensor."""
    bucket_size: Annotated[Count, Field(ge=2)] = 256
    """Values that share a scale."""
    init: Literal["quantiles", "uniform"] = "quantiles"
    include_embeddings: bool = True
    include_head: bool = False
    """Also what stands on top of the base model, such as a classifier."""


class Lora(Section):
    """Low-rank adapters (Hu et al., 2022, arXiv:2106.09685) train in place of the student's weights. When the stage is
    over they are merged into these, so that it leaves a plain model."""

    r: Count = 8
    """The rank."""
    alpha: Scale = 16.0
    """The adapters' product is weighed by alpha / r."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Of what the adapters read."""
    target_modules: Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)] | None = None
    """The modules that get adapters, by the last parts of their names; those that peft knows for the family without
    it."""
    modules_to_save: Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)] | None = None
    """Modules that train whole, such as a new head; all else is at rest."""
