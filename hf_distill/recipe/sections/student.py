"""The model to train, and the ways to make it from its teacher."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from hf_distill.recipe.fields import Count, Text, Weight, distinct
from hf_distill.recipe.sections.base import Section


def _layers_form(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "count" if isinstance(value, int | str) and not isinstance(value, bool) else None


Layers = Annotated[
    Annotated[Count, Tag("count")]
    | Annotated[list[Count], Field(min_length=1), AfterValidator(distinct), Tag("list")],
    Discriminator(_layers_form, "layers", "must be a number of layers, or a list of layers counted from 1"),
]
Pick = Literal["spread", "uniform", "first", "last", "distilbert"]
Measured = Literal["spread", "uniform", "first", "last", "distilbert", "importance", "loss_rise"]
Aggregation = Literal["mean", "l2", "var"]


class FromLayers(Section):
    """A student cut from its teacher."""

    layers: Layers
    """How many of the teacher's layers, or which, counted from 1."""
    pick: Measured = "spread"
    """Which layers a number stands for; a list of layers needs no pick. By importance stay those that change their
    input most, by loss_rise those without which the loss of the labels rises most."""
    contiguous: bool | None = None
    """Leave out one run of neighbouring layers; with a pick that is measured."""
    calibration_rows: Count | None = None
    """How many training rows a pick is measured on, 256 without it."""


class DistilBert(Section):
    """A student with DistilBERT's architecture, cut from a BERT; {} is the published one, six of twelve layers."""

    layers: Layers = 6
    """How many of the teacher's layers, or which, counted from 1."""
    pick: Pick | None = None
    """Which layers a number stands for; distilbert without it. A list of layers needs no pick."""
    token_types: Literal["dropped", "folded"] = "dropped"
    """Whether the first segment's embedding is added to that of each position, or left out as in the published one."""


class FromShape(Section):
    """A student of the teacher's class with other sizes; those that are not given stay the teacher's."""

    num_hidden_layers: Count | None = None
    hidden_size: Count | None = None
    num_attention_heads: Count | None = None
    num_key_value_heads: Count | None = None
    """Heads of keys and values, where the family groups heads."""
    intermediate_size: Count | None = None
    """The width inside the feed-forward layers."""
    initialisation: Literal["random", "importance"] = "random"
    """Random weights, or those of the teacher that matter most on the training rows."""
    calibration_rows: Count | None = None
    """How many rows importance is measured on, 256 without it."""
    pick: Measured = "spread"
    """Which of the teacher's layers are kept; importance and loss_rise are measured, as in from_layers."""
    contiguous: bool | None = None
    """Leave out one run of neighbouring layers; with a pick that is measured."""
    ranking: Literal["added", "activations"] | None = None
    """Rank dimensions, heads and neurons by what they add to the output (added, also without it), or by their
    activations alone (Minitron)."""
    over_texts: Aggregation | None = None
    """How the activations of all texts are aggregated, l2 without it; with ranking: activations."""
    over_tokens: Aggregation | None = None
    """How the activations of a text's tokens are aggregated before that, mean without it."""
    steps: Count | None = None
    """In how many equal steps the sizes go down, with importance measured anew after each; one without it."""


class Bottlenecks(Section):
    """The sizes of a model built as MobileBERT is, where they are not the published ones."""

    num_hidden_layers: Count | None = None
    hidden_size: Count | None = None
    """The width of what a block takes and gives."""
    embedding_size: Count | None = None
    intra_bottleneck_size: Count | None = None
    """The width inside a block."""
    num_attention_heads: Count | None = None
    intermediate_size: Count | None = None
    num_feedforward_networks: Count | None = None


class MobileBert(Bottlenecks):
    """A MobileBERT with the teacher's vocabulary and labels; {} is the published one."""

    variant: Literal["mobilebert", "tiny"] = "mobilebert"


class GrowLabels(Section):
    """The teacher itself, whose head gets further labels behind its own; what it answers over these stays."""

    names: Annotated[list[Text], Field(min_length=1), AfterValidator(distinct)]
    """The new labels, in the order of their ids."""


class FewSample(Section):
    """Few-sample recovery (FSKD): the projections of what was cut are fitted to the teacher on a few unlabelled rows,
    by least squares. {} takes the settings that were measured to be best."""

    sentences: Annotated[Count, Field(ge=5)] = 100
    """Training rows, of which every fifth judges the fit."""
    target: Literal["stream", "sublayer"] = "stream"
    """Fit the sum after a projection to the teacher's, or the projection's output alone."""
    fit: Literal["full", "block"] | None = None
    """Fit new weights, or a matrix that is merged into the weights; without it full where inputs were lost."""
    ridge: Weight = 0.1
    """How much a fit is drawn to what was there, in units of the mean square of what it reads."""


class Student(Section):
    """The model to train: a model, or one way to make it from the teacher."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    from_layers: FromLayers | None = None
    distilbert: DistilBert | None = None
    from_shape: FromShape | None = None
    mobilebert: MobileBert | None = None
    ib_bert: Bottlenecks | None = None
    """An IB-BERT, MobileBERT's teacher, with the teacher's vocabulary and labels; {} is the published one."""
    grow_labels: GrowLabels | None = None
    few_sample: FewSample | None = None
    """Correct what was cut on a few rows before anything is trained; with from_layers or from_shape."""
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""
