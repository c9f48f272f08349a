"""How the sentence encoders of a run make their vectors: as their files say, as the recipe says, or as the teacher."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from transformers import PreTrainedModel

from hf_distill.anatomy import Anatomy
from hf_distill.errors import IncompatiblePair
from hf_distill.recipe import Member, Recipe, Teacher
from hf_distill.recipe.sections.data import Embeddings as Settings
from hf_distill.runs.models import leading, teacher_path
from hf_distill.sentence_modules import read_modules
from hf_distill.sentences import DENSE, NO_POOLING, SentenceEmbedding, fixed, give


@dataclass(frozen=True)
class Encoders:
    """`pooling` and `normalize` are what the recipe says of the student, and of models that say nothing themselves;
    `teacher` is the recipe's, if there is one to be loaded, `max_length` the tokens of a text at most.
    """

    pooling: str | None
    normalize: bool | None
    teacher: Teacher | Member | None
    max_length: int

    @classmethod
    def of(cls, recipe: Recipe, settings: Settings) -> Encoders:
        """Those of a recipe."""
        return cls(settings.pooling, settings.normalize, leading(recipe), recipe.max_length)

    def fit(self, model: PreTrainedModel, role: str) -> None:
        """Puts it into the model's configuration, with its dense layers; what a student of an earlier run, or one that
        was cut from its teacher, has of it already stays.

        Raises: `IncompatiblePair` for a model of which no pooling is known, and for modules that are not known here.
        """
        teaches = role.startswith("teacher")
        found, dense = SentenceEmbedding.of(model.config), model._modules.get(DENSE)
        whole = found is not None and (found.width is None or dense is not None)
        if teaches and whole:
            return
        if not whole:
            name, revision = model.name_or_path, getattr(model.config, "_commit_hash", None)
            modules = read_modules(name, role, revision) if name else None
            found, dense = (None, None) if modules is None else modules
        if teaches:
            give(model, self._stated(found, model), dense)
            return
        chosen = self._for_student(found, model)
        longest = min(self.max_length, Anatomy.of(model).shape.max_length or self.max_length)
        give(model, replace(chosen, max_length=longest), None if dense is None else fixed(dense))

    def _stated(self, found: SentenceEmbedding | None, model: PreTrainedModel) -> SentenceEmbedding:
        """What a model's files say, or else the recipe."""
        if found is not None:
            return found
        if self.pooling is None:
            raise IncompatiblePair(NO_POOLING.format(_told(model)))
        return SentenceEmbedding(self.pooling, bool(self.normalize))

    def _for_student(self, found: SentenceEmbedding | None, model: PreTrainedModel) -> SentenceEmbedding:
        """What the recipe says, else the student's own files, else the teacher's."""
        if found is None and self.pooling is None and self.teacher is not None:
            modules = read_modules(teacher_path(self.teacher), "teacher", self.teacher.revision)
            found = None if modules is None else modules.embedding
        stated = self._stated(found, model)
        return SentenceEmbedding(
            stated.pooling if self.pooling is None else self.pooling,
            stated.normalize if self.normalize is None else self.normalize,
        )


def _told(model: Any) -> str:
    return f"{type(model).__name__} {model.name_or_path!r}"
