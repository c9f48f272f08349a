"""The kinds of tasks that a run knows, and the choice among them."""

from __future__ import annotations

from hf_distill.recipe import Recipe
from hf_distill.runs import models
from hf_distill.runs.workload import Workload
from hf_distill.runs.workloads import (
    across_tokenizers,
    chat,
    embeddings,
    pretraining,
    question_answering,
    speech,
    text_classification,
    token_classification,
    translation,
)

__all__ = ["load_workload"]


def load_workload(
    recipe: Recipe, *, train: bool = True, predict: bool = False, student: str | None = None
) -> Workload:
    """The rows of a recipe, deduplicated, split and cut as it says, with all that a run asks about its task.

    `train` and `predict` say whether the training rows and the tests must be there; own training rows always must, as
    they say which labels there are. `student` is the folder or id of a finished one, which knows best what numbers
    among them mean; else it is the teacher.

    Raises: `DataError` naming file, row and column of what is missing or wrong.
    """
    data = recipe.data
    if data is not None and data.question_answering is not None:
        return question_answering.load(data, data.question_answering, recipe, predict=predict)
    if data is not None and data.token_classification is not None:
        return token_classification.load(data, data.token_classification, recipe, predict=predict)
    if data is not None and data.translation is not None:
        return translation.load(data, data.translation, recipe, predict=predict)
    if data is not None and data.chat is not None and models.reads_its_own(recipe):
        return across_tokenizers.load_chat(data, data.chat, recipe, predict=predict)
    if data is not None and data.chat is not None:
        return chat.load(data, data.chat, recipe, predict=predict)
    if data is not None and data.speech is not None:
        return speech.load(data, data.speech, recipe, predict=predict)
    if data is not None and data.embeddings is not None:
        return embeddings.load(data, data.embeddings, recipe, predict=predict)
    if data is not None and data.text is not None and models.reads_its_own(recipe):
        return across_tokenizers.load(data.text, recipe, predict=predict)
    if data is not None and data.text is not None:
        return pretraining.load(data.text, recipe, predict=predict)
    return text_classification.load(recipe, train=train, predict=predict, student=student)
