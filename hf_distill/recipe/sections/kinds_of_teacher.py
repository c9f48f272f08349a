"""Teachers that are more than one model, or none of their own: several, an average, peers, the student without
adapters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from hf_distill.member_logits import RULES
from hf_distill.recipe.fields import Count, InsidePath, Module, Scale, Sha256, TermName, Text, Weight
from hf_distill.recipe.sections.base import Section


class PackagedModel(Section):
    """A model folder inside an installed Python package, which is found without being imported."""

    name: Module
    """The name under which the package is imported."""
    folder: InsidePath
    """The path inside the package."""
    sha256: Annotated[dict[InsidePath, Sha256], Field(min_length=1)]
    """The SHA-256 digests of files in the folder."""


class Member(Section):
    """One of several teachers: exactly one of model and package."""

    model: Text | None = None
    """The id of a model on the Hub, or the path of a folder."""
    package: PackagedModel | None = None
    revision: Text | None = None
    """Branch, tag or commit on the Hub."""
    trust_remote_code: bool = False
    """Run the Python code of the repository; only with a commit as revision."""


def _weights_form(value: Any) -> str | None:
    return "list" if isinstance(value, list) else "rule" if value in RULES else None


class Several(Section):
    """Several teachers at once. Terms over logits learn from all of them together, others name one as `on`. The first
    one is the teacher that students are made from, and that they are compared with at the end."""

    members: Annotated[dict[TermName, Member], Field(min_length=1)]
    """The teachers, by a name for each."""
    combine: Literal["prob", "logit", "losses"] = "prob"
    """What is averaged: probabilities at each term's temperature, logits, or the terms' values against each."""
    weights: (
        Annotated[
            Annotated[list[Weight], Tag("list")] | Annotated[Literal["label_ce", "entropy", "softmax"], Tag("rule")],
            Discriminator(
                _weights_form, "weights", "must be a list of numbers, or one of label_ce, entropy and softmax"
            ),
        ]
        | None
    ) = None
    """A number for each teacher, or the rule by which each row weighs them: by their loss on its label, or by how sure
    they are; equal without it."""
    routing: Literal["max_prob", "gold"] | None = None
    """Give each row to one teacher: the surest, or the one surest of its label."""
    tau: Scale = 1.0
    """The temperature of the rule softmax."""


class Following(Section):
    """The moving average of the student's own weights, as a mean teacher; {} for the defaults."""

    decay: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """The share that stays of the average in each step."""
    warmup: bool = True
    """Begin with a smaller share, so that early weights are soon forgotten."""


class Alongside(Section):
    """Models that train with the student and learn from it as it does from them, made as the recipe's student is, from
    other seeds. The student is the one that is evaluated and left."""

    count: Annotated[Count, Field(le=16)] = 1
    """How many beside the student."""
    learning_rate: Scale | None = None
    """Theirs; that of the student without it."""


class OnDisk(Section):
    """A teacher that is a folder alone: a cache that holds all training rows, made elsewhere, or of what a served
    teacher told (hf-distill cache served). No student can be made of it."""

    folder: Text


class Base(Section):
    """The student of each stage as it is without its adapters (`lora`), which keeps it near where it starts."""

    base_has_head: bool = False
    """The head that the adapters save whole (modules_to_save) was trained before, and so its answers say something."""
