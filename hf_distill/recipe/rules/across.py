"""Teachers that read by a tokenizer of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill import objectives
from hf_distill.recipe.problems import Path, Problem
from hf_distill.recipe.rules.models import MADE
from hf_distill.recipe.rules.reading import comparing, items, mappings, section_of, students

WITHOUT = ("ensemble", "moving_average", "peers", "adapter_off", "fine_tune", "cache", "cached")
"""What of a teacher goes by the tokens that the student reads."""


def across(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Across tokenizers next words are compared, in rows that hold whole documents, or conversations, in the tokens of
    both."""
    teacher = section_of(data, "teacher")
    is_own = teacher.get("tokenizer") is not None
    yield from _terms(data, is_own)
    if not is_own:
        return
    for key in (key for key in WITHOUT if teacher.get(key) is not None):
        text = f"goes by the student's tokens, and the teacher reads by its own (teacher.tokenizer); leave {key} out."
        yield Problem(("teacher", key), text)
    for path, student in students(data):
        for name in (name for name in MADE if student.get(name) is not None):
            text = "takes the teacher's vocabulary, and this student has another (teacher.tokenizer: own); give model."
            yield Problem((*path, name), text)
    yield from _written(data)
    yield from _rows(section_of(data, "data"))


def _terms(data: Mapping[str, Any], is_own: bool) -> Iterator[Problem]:
    for i, stage in mappings(data.get("stages")):
        for j, name in comparing(stage) if stage.get("teacher") is None else []:
            here = ("stages", i, "objectives", j, name)
            takes_two = objectives.get(name).takes_two_vocabularies
            if takes_two and not is_own:
                yield Problem(
                    here, "compares models of two tokenizers; set teacher.tokenizer: own, or take soft_targets."
                )
            elif is_own and not takes_two:
                text = "compares token by token, and the teacher reads by its own tokenizer; take uld or gold."
                yield Problem(here, text)


def _written(data: Mapping[str, Any]) -> Iterator[Problem]:
    for i, stage in mappings(data.get("stages")):
        if stage.get("on_policy") is not None and stage.get("teacher") is None:
            text = (
                "has texts written that are not aligned between two tokenizers (teacher.tokenizer: own); leave it out."
            )
            yield Problem(("stages", i, "on_policy"), text)


def _rows(rows: Mapping[str, Any]) -> Iterator[Problem]:
    text = section_of(rows, "text")
    if rows.get("chat") is not None:
        if section_of(rows, "chat").get("packing") is True:
            found = "puts several conversations into a row, and they are aligned one by one (teacher.tokenizer: own)."
            yield Problem(("data", "chat", "packing"), f"{found} Leave it out.")
    elif text and text.get("task", "masked_lm") == "causal_lm":
        yield from _text(text, ("data", "text"))
    else:
        only = "next words alone can be compared; give data.chat, or data.text with task: causal_lm."
        yield Problem(("teacher", "tokenizer"), f"reads by its own tokenizer: {only}")


def _text(text: Mapping[str, Any], here: Path) -> Iterator[Problem]:
    if text.get("packing", "full") != "none":
        found = "must be none: documents are aligned one by one in the tokens of both models (teacher.tokenizer: own)."
        yield Problem((*here, "packing"), found)
    if not text.get("validation"):
        found = "is missing: no rows are held out of documents in two tokenizations; give text of its own."
        yield Problem((*here, "validation"), found)
    if text.get("streaming") is True:
        found = "does not go with teacher.tokenizer: own, whose rows are aligned before training; leave it out."
        yield Problem((*here, "streaming"), found)
    if any(source.get("weight") is not None for _, source in mappings(items(text.get("train")))):
        yield Problem((*here, "train"), "may have no weights with teacher.tokenizer: own; leave them out.")
