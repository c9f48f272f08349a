"""The models of a recipe, made of their configurations alone: on the meta device, or with random weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from hf_distill import students
from hf_distill.anatomy import Anatomy
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.hub.record import is_hub_id
from hf_distill.inspection.kinds import Kind
from hf_distill.recipe import Member, Recipe
from hf_distill.recipe import Student as StudentSection
from hf_distill.recipe import Teacher as TeacherSection
from hf_distill.runs.cutting import SIZES
from hf_distill.runs.models import leading, teacher_path
from hf_distill.runs.sentence_encoders import Encoders
from hf_distill.students.block_importance import MEASURED

MAKERS: dict[str, Callable[..., PreTrainedModel]] = {
    "distilbert": students.as_distilbert,
    "mobilebert": students.mobilebert,
    "ib_bert": students.ib_bert,
}
"""Ways to make a student that read nothing but the teacher and their settings."""

UNFIT = (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError)
"""What is raised where a model is made of numbers and names that make none."""

LABELS = ("id2label", "label2id", "problem_type")
"""What a configuration says of labels."""


class Blueprint:
    """The models of a recipe as their configurations describe them; no weights are read. Configurations that are not
    on the disk are asked of the Hub, which takes a few kilobytes.

    `place` is where they are built: on the meta device they have shapes alone, elsewhere random weights. Corrections
    of a student on rows (`few_sample`), and the choice by importance, are left out: shapes do not depend on them.

    Raises: `DistillationError` for a configuration that cannot be had, `IncompatiblePair` for a student that cannot be
    made.
    """

    def __init__(self, recipe: Recipe, place: str = "meta") -> None:
        self.recipe, self.place, self.kind = recipe, torch.device(place), Kind.of(recipe)

    @cached_property
    def teacher(self) -> PreTrainedModel | None:
        """The teacher that students are made from; None where there is no such model."""
        section = leading(self.recipe)
        if section is None:
            return None
        is_new = isinstance(section, TeacherSection) and section.fine_tune is not None
        return self.named(section, "teacher", self.kind.head({}) if is_new else {})

    @cached_property
    def members(self) -> dict[str, PreTrainedModel]:
        """Every one of several teachers by its name; empty for one teacher."""
        section = None if self.recipe.teacher is None else self.recipe.teacher.ensemble
        if section is None or self.teacher is None:
            return {}
        first, *others = section.members.items()
        return {first[0]: self.teacher} | {
            name: self.named(member, f"teacher {name!r}", {}) for name, member in others
        }

    @cached_property
    def student(self) -> PreTrainedModel:
        """The recipe's student before training."""
        return self.made(self.recipe.student)

    def made(self, section: StudentSection) -> PreTrainedModel:
        """A new student, as a section describes it."""
        if section.model is not None:
            return self.named(section, "student", self.kind.head(self._labels_of_teacher()))
        if self.teacher is None:
            raise IncompatiblePair("the student is made from the teacher's layers, and there is no such teacher.")
        with self.place:
            made = _made(section, self.teacher)
        self._as_encoder(made, "student")
        return made

    def named(
        self, section: TeacherSection | Member | StudentSection, role: str, head: dict[str, Any]
    ) -> PreTrainedModel:
        """The model that a section names, with settings of its `head` where that is new."""
        path = str(section.model) if isinstance(section, StudentSection) else teacher_path(section)
        config = configuration(path, role, section.revision, section.trust_remote_code)
        for name, value in head.items():
            setattr(config, name, value)
        auto_class = getattr(transformers, self.kind.auto_class)
        try:
            with self.place:
                model: PreTrainedModel = auto_class.from_config(
                    config, dtype=torch.float32, trust_remote_code=section.trust_remote_code
                )
            _look_at(model)
            self._as_encoder(model, role)
        except (IncompatiblePair, torch.OutOfMemoryError):
            raise
        except UNFIT as error:
            raise DistillationError(
                f"the {role} {path!r}: its configuration makes no model for {self.kind.auto_class} "
                f"({type(error).__name__}: {first_line(error)})"
            ) from error
        placed: PreTrainedModel = model.to(self.place)  # what some models mask with is made elsewhere
        return placed

    def _as_encoder(self, model: PreTrainedModel, role: str) -> None:
        """Says how the vectors of a sentence encoder are made, as a run does."""
        if self._encoders is not None:
            self._encoders.fit(model, role)

    @cached_property
    def _encoders(self) -> Encoders | None:
        settings = None if self.recipe.data is None else self.recipe.data.embeddings
        return None if settings is None else Encoders.of(self.recipe, settings)

    def _labels_of_teacher(self) -> dict[str, Any]:
        config = None if self.teacher is None else self.teacher.config
        return {} if config is None else {name: getattr(config, name) for name in LABELS}


def _look_at(model: PreTrainedModel) -> None:
    """Reads the sizes and the labels of a model, for whatever its configuration lacks."""
    Anatomy.of(model)
    names: Any = model.config.id2label
    for number in range(model.config.num_labels):
        str(names[number])


def stored_class(config: PreTrainedConfig) -> str:
    """The name of the class that wrote a checkpoint; empty where the configuration does not say."""
    names: Any = getattr(config, "architectures", None)
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _made(section: StudentSection, teacher: PreTrainedModel) -> PreTrainedModel:
    """The student that a section makes of its teacher."""
    if section.from_layers is not None:
        return students.from_layers(
            teacher, layers=section.from_layers.layers, pick=_by_place(section.from_layers.pick)
        )
    if section.from_shape is not None:
        sizes = {name: getattr(section.from_shape, name) for name in SIZES}
        return students.from_shape(teacher, **sizes, pick=_by_place(section.from_shape.pick))
    if section.grow_labels is not None:
        return students.grow_labels(teacher, section.grow_labels.names)
    name = next(name for name in MAKERS if getattr(section, name) is not None)
    return MAKERS[name](teacher, **getattr(section, name).model_dump())


def _by_place(pick: str) -> str:
    """A pick that needs no rows."""
    return "spread" if pick in MEASURED else pick


def configuration(path: str, role: str, revision: str | None, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration of a folder or Hub id.

    Raises: `DistillationError` if there is none.
    """
    if not Path(path).exists() and not is_hub_id(path):
        raise DistillationError(f"{role}: there is no folder {path!r}, and no model on the Hub can have that name.")
    try:
        return AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except StrictDataclassError as error:
        raise DistillationError(
            f"the {role} {path!r}: its configuration is wrong: {' '.join(str(error).split())}"
        ) from error
    except (OSError, ValueError) as error:
        raise DistillationError(
            f"the {role} {path!r} has no configuration that could be read: {first_line(error)}"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says, without its advice."""
    return str(error).strip().split("\n")[0]
