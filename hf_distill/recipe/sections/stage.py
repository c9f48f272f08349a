"""One training run of a recipe."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from hf_distill.objectives.terms import Terms
from hf_distill.recipe.fields import Arguments, Count, StageName
from hf_distill.recipe.problems import Problem, fail
from hf_distill.recipe.sections.base import Section
from hf_distill.recipe.sections.objective import WeightedObjective
from hf_distill.recipe.sections.on_policy import OnPolicyTexts
from hf_distill.recipe.sections.student import Student
from hf_distill.recipe.sections.trained import Lora, Progressive, QuantizePoints, QuantizeUniform, TrainGroup


def _student_form(value: Any) -> str | None:
    return "(fresh)" if value == "fresh" else "(student)" if isinstance(value, dict | Student) else None


def _train_form(value: Any) -> str | None:
    return "all" if value == "all" else "groups" if isinstance(value, list) else None


class Stage(Section):
    """One training run. Stages follow each other, each with the student of the one before unless it says otherwise."""

    name: StageName
    objectives: Annotated[list[WeightedObjective], Field(min_length=1)]
    """The terms of the loss."""
    teacher: StageName | None = None
    """Learn from the finished student of an earlier stage, by the stage's name, or of the stage before (previous), in
    place of the recipe's teacher."""
    student: (
        Annotated[
            Annotated[Literal["fresh"], Tag("(fresh)")] | Annotated[Student, Tag("(student)")],
            Discriminator(_student_form, "student", "must be fresh, or a student such as {from_layers: {layers: 3}}"),
        ]
        | None
    ) = None
    """Start anew with the recipe's student (fresh), or start with this one."""
    rows: Literal["original", "augmented"] = "original"
    """The training rows, or those that `augmentation` makes of them."""
    targets: Literal["reference", "best", "nearest", "all"] = "reference"
    """The texts to learn: those of the data, or of what the teacher writes (teacher.generate) its search's best, the
    nearest to that of the data, or all of them, each a row; of sounds all are columns of one row."""
    train: Annotated[
        Annotated[Literal["all"], Tag("all")] | Annotated[list[TrainGroup], Field(min_length=1), Tag("groups")],
        Discriminator(
            _train_form,
            "train",
            "must be all, or a list of {parameters: pattern}, {layers: [1, 2]} or {part: head}, each with a "
            "learning_rate_scale if it is not 1",
        ),
    ] = "all"
    """All parameters, or groups of them; the rest is frozen. Where nothing of the base model trains, it also runs
    without dropout."""
    progressive: Progressive | None = None
    """Makes of this stage one for each layer, `<name>-01`, `<name>-02` ..., when the recipe is read."""
    quantize_uniform: QuantizeUniform | None = None
    quantize_points: QuantizePoints | None = None
    lora: Lora | None = None
    on_policy: OnPolicyTexts | None = None
    tokens_per_batch: Count | None = None
    """The most cells of a batch, padding included: many short rows or few long ones, in place of
    per_device_train_batch_size."""
    arguments: Arguments = Field(default={})
    """Arguments of transformers.TrainingArguments."""

    @model_validator(mode="after")
    def _enough_examples(self) -> Stage:
        """A batch has as many examples as the objectives relate; over all processes it depends on their number."""
        size = self.arguments.get("per_device_train_batch_size")
        if not isinstance(size, int) or self.tokens_per_batch is not None:
            return self
        for objective in (term.objective for term in self.terms()):
            if size < objective.smallest_batch and not objective.gather:
                text = (
                    f"is {size}, and {objective.name} relates at least {objective.smallest_batch} examples of a batch "
                    "to each other."
                )
                raise fail([Problem(("arguments", "per_device_train_batch_size"), text)])
        return self

    def terms(self) -> Terms:
        """New objectives with their weights and names, not yet bound to any models."""
        return Terms([entry.term() for entry in self.objectives])
