"""Training rows of conversations without answers, and what of a recipe would read these."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.data.chat import WRITTEN
from hf_distill.recipe.problems import Problem
from hf_distill.recipe.rules.kept import REFERENCE
from hf_distill.recipe.rules.reading import mappings, section_of
from hf_distill.written_shares import writes_all


def prompts_alone(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Prompts have completions, unless a model writes all of them."""
    section, here = section_of(data, "data", "chat"), ("data", "chat", "completion_column")
    if section.get("prompt_column") is None or section.get("completion_column") is not None:
        return
    reader = next(readers_of_answers(data), None)
    if reader is not None:
        text = f"is missing: it goes with prompt_column, as {reader}. Give it, or {WRITTEN}."
        yield Problem(here, text)


def readers_of_answers(data: Mapping[str, Any]) -> Iterator[str]:
    """What of a recipe reads the answers of its training conversations, each as a clause; nothing where a model writes
    all that is learned, in every stage."""
    for i, stage in mappings(data.get("stages")):
        who, choice = f"stage {stage.get('name', i)!r}", stage.get("targets", REFERENCE)
        if choice == "nearest":
            yield f"{who} takes the texts of the teacher that are nearest to the answers of the data (targets)"
        elif choice == REFERENCE and stage.get("on_policy") is None:
            yield f"{who} learns the answers of the data"
        elif choice == REFERENCE and not writes_all(section_of(stage, "on_policy")):
            yield f"{who} learns the answers of the data in a share of its steps (on_policy)"
        elif choice == REFERENCE and section_of(data, "teacher").get("tokenizer") is not None:
            yield f"{who} finds prompts by the answers of the data, which are aligned (teacher.tokenizer)"
    if data.get("control") is True:
        yield "the control is trained on the answers of the data (control)"
    if section_of(data, "teacher").get("fine_tune") is not None:
        yield "the teacher is trained on the answers of the data (teacher.fine_tune)"
    if section_of(data, "teacher", "generate", "filters").get("min_similarity") is not None:
        yield "texts are compared with the answers of the data (teacher.generate.filters.min_similarity)"
