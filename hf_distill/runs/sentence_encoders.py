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


@dataclass
class Encoders:
    """`pooling` and `normalize` are what the recipe says of the student, and of models that say nothing themselves;
    `teacher` is the recipe's, if there is one to be loaded, `max_length` the tokens of a text at most: the recipe's,
    and those that texts were cut to once they are read. `similarity` is how vectors are compared, of all models of a
    run: by the recipe, else as the first model that is fitted has it, which is the teacher wherever there is one.
    """

    pooling: str | None
    normalize: bool | None
    teacher: Teacher | Member | None
    max_length: int
    similarity: str | None = None

    @classmethod
    def of(cls, recipe: Recipe, settings: Settings) -> Encoders:
        """Those of a recipe."""
        return cls(settings.pooling, settings.normalize, leading(recipe), recipe.max_length, settings.similarity)

    def fit(self, model: PreTrainedModel, role: str) -> None:
        """Puts it into the model's configuration, with its dense layers; what a student of an earlier run, or one that
        was cut from its teacher, has of it already stays.

        Raises: `IncompatiblePair` for a model of which no pooling is known, and for modules that are not known here.
        """
        teaches = role.startswith("teacher")
        found, dense = SentenceEmbedding.of(model.config), model._modules.get(DENSE)
        whole = found is not None and (found.width is None or dense is not None)
        if teaches and found is not None and whole:
            self._compare_as(found)
            return
        if not whole:
            name, revision = model.name_or_path, getattr(model.config, "_commit_hash", None)
            modules = read_modules(name, role, revision) if name else None
            found, dense = (None, None) if modules is None else modules
        if teaches:
            stated = self._stated(found, model)
            self._compare_as(stated)
            give(model, stated, dense)
            return
        chosen = self._for_student(found, model)
        similarity = self._compare_as(chosen)
        longest = min(self.max_length, Anatomy.of(model).shape.max_length or self.max_length)
        made = replace(chosen, max_length=longest, similarity=similarity)
        give(model, made, None if dense is None else fixed(dense))

    def _compare_as(self, embedding: SentenceEmbedding) -> str:
        """How vectors are compared; as this model has it, where nothing said so before."""
        self.similarity = embedding.similarity if self.similarity is None else self.similarity
        return self.similarity

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
            similarity=stated.similarity,
        )


def _told(model: Any) -> str:
    return f"{type(model).__name__} {model.name_or_path!r}"
