"""What a recipe says of its task without its data being read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_distill.data import glue
from hf_distill.recipe import Recipe
from hf_distill.runs.labels import SEVERAL, label_settings
from hf_distill.tasks import TASKS

OF_DATA = {
    "question_answering": "question_answering",
    "token_classification": "token_classification",
    "translation": "seq2seq_lm",
    "chat": "causal_lm",
    "speech": "ctc",
    "embeddings": "embeddings",
}
"""The tasks of kinds of data, by the key of `data` that says the kind."""


@dataclass(frozen=True)
class Kind:
    """How models of a recipe are loaded: the name of their task, the auto class, and the labels of the data in their
    order; `labels` is None where only the rows tell them, or where there are none, and empty for a score.
    """

    name: str
    auto_class: str
    labels: tuple[str, ...] | None = None

    @classmethod
    def of(cls, recipe: Recipe) -> Kind:
        """The kind of a recipe's task."""
        data = recipe.data
        if data is None:
            names = glue.task(str(recipe.task)).label_names
            return cls._named("single_label" if names else "regression", tuple(names))
        if data.text is not None:
            return cls._named(data.text.task)
        task = next((task for key, task in OF_DATA.items() if getattr(data, key) is not None), "single_label")
        tags = None if data.token_classification is None else data.token_classification.tag_names
        if data.regression:
            return cls._named("regression", ())
        given = tags if task == "token_classification" else data.label_names
        return cls._named(task, None if given is None else tuple(given))

    @classmethod
    def _named(cls, name: str, labels: tuple[str, ...] | None = None) -> Kind:
        return cls(name, TASKS[name].auto_class, labels)

    @property
    def classifies(self) -> bool:
        """Whether the models have a column for each label of the data, or one for a score."""
        return self.name in ("single_label", "regression", "token_classification")

    def head(self, labels: Mapping[str, Any]) -> dict[str, Any]:
        """Settings of a configuration that give a new head the labels of the data, or else `labels`, those of another
        model, which says as well whether a text has one of them or any number."""
        if not self.classifies:
            return {}
        if self.labels is None:
            return dict(labels)
        several = {"problem_type": SEVERAL} if labels.get("problem_type") == SEVERAL else {}
        return {**label_settings(self.labels), **several}
