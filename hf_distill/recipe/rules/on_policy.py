"""Stages in which the student writes the texts that it trains on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.recipe.problems import Path, Problem
from hf_distill.recipe.rules.reading import comparing, mappings, section_of
from hf_distill.recipe.rules.teacher import OF_STUDENTS

SILENT = ("text_columns", "question_answering", "token_classification", "speech", "embeddings")
"""The keys of `data` whose models write no texts behind prompts."""


def on_policy(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A student that writes needs prompts, and a teacher that can be asked about what is new."""
    for i, stage in mappings(data.get("stages")):
        if stage.get("on_policy") is not None:
            here = ("stages", i, "on_policy")
            yield from _prompts(data, here, section_of(stage, "on_policy"))
            yield from _teacher(data, here, stage)


def _prompts(data: Mapping[str, Any], here: Path, section: Mapping[str, Any]) -> Iterator[Problem]:
    rows, text = section_of(data, "data"), section_of(data, "data", "text")
    silent = next((key for key in SILENT if rows.get(key) is not None), None)
    silent = "a GLUE task" if data.get("task") is not None else silent
    kind = text.get("task", "masked_lm") if text else None
    if silent is not None or kind in ("masked_lm", "encoder"):
        found = silent or f"text for the task {kind}"
        yield Problem(here, f"has the student write, and the data are {found}, whose models do not; leave it out.")
    elif section_of(rows, "chat").get("packing") is True:
        found = "has a text written for each row, and data.chat.packing puts several into one; leave packing out."
        yield Problem(here, found)
    elif kind is not None and section.get("prompt_tokens") is None:
        yield Problem((*here, "prompt_tokens"), "is missing: plain text marks no prompts, and each row needs one.")
    elif rows.get("translation") is not None and section.get("prompt_tokens") is not None:
        why = "is for plain text; of pairs of texts the one that is read is the prompt. Leave it out."
        yield Problem((*here, "prompt_tokens"), why)


def _teacher(data: Mapping[str, Any], here: Path, stage: Mapping[str, Any]) -> Iterator[Problem]:
    teacher = section_of(data, "teacher")
    if not comparing(stage):
        yield Problem(here, "teaches the student nothing by itself; add a term that compares it with a teacher.")
    if stage.get("teacher") is not None:
        return
    for key in (key for key in ("cache", "cached") if teacher.get(key) is not None):
        text = f"does not go with teacher.{key}, which knows the texts of the data alone; leave one of them out."
        yield Problem(here, text)
    share = section_of(stage, "on_policy").get("teacher_share", 0)
    kind = next((key for key in ("ensemble", *OF_STUDENTS) if teacher.get(key) is not None), None)
    if share and kind is not None:
        yield Problem((*here, "teacher_share"), f"has the teacher write, and it is made by {kind}; set it to 0.")
