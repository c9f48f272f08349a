"""What tells the rows that a run was evaluated on from others, by what its folder says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from hf_distill.hub.record import FILE_NAME as RECORD
from hf_distill.runs.folder import RunFolder, read_json
from hf_distill.runs.origins import value_at
from hf_distill.runs.results import RunResult

READ = {
    "question_answering": ("version_2_with_negative",),
    "token_classification": ("tokens_column", "tags_column"),
    "translation": ("source_column", "target_column", "max_target_length"),
    "chat": ("messages_column", "prompt_column", "completion_column", "system"),
    "speech": ("audio_column", "text_column"),
    "embeddings": ("score_column",),
    "text": ("task", "packing", "masking"),
}
"""Of each kind of data, what says which parts of the rows are scored. How models read them, and what concerns training
alone, does not stand here."""

CUT = ("token_classification", "translation", "chat", "text")
"""Kinds of which every token is scored, so that others are where texts are cut, or packed, at another length."""

OF_A_SOURCE = ("unit", "column", "documents", "weight")
OF_HELD_OUT = ("held_out", "streaming")


def key_of(folder: RunFolder, result: RunResult) -> str:
    """The sums of the evaluated split's files, or else of all files and how they are cut; how many rows there are, and
    what of them is read and scored; the objectives, too, where their value is the metric. Empty where the folder does
    not say."""
    identity = folder.identity()
    if identity is None:
        return ""
    split, recipe, sources = result.split, identity.get("recipe", {}), identity.get("sources", {})
    own = {name: sum_ for name, sum_ in sources.items() if name == split or name.startswith(f"{split} ")}
    stages = recipe.get("stages") or [{}]
    told = {
        "split": split,
        "sources": own or sources,
        "cut": None if own else value_at(recipe, "data.split"),
        "most": value_at(recipe, f"max_samples.{split.partition('_')[0]}"),
        "number": value_at(read_json(folder.path / RECORD) or {}, f"data.sizes.{split}"),
        "where": value_at(recipe, "data.where") or None,
        "distinct": bool(value_at(recipe, "data.deduplicate")),
        "label": value_at(recipe, "data.label_column"),
        "read": _read(recipe, has_own=bool(own)),
        "objectives": stages[-1].get("objectives") if result.metric == "loss" else None,
    }
    return json.dumps(told, sort_keys=True)


def _read(recipe: Mapping[str, Any], *, has_own: bool) -> dict[str, Any]:
    """What is read and scored of rows of the recipe's kind; of texts with a label nothing beside the label."""
    data = recipe.get("data") or {}
    kind = next((kind for kind in READ if data.get(kind) is not None), None)
    if kind is None:
        return {}
    section = data[kind]
    found = {name: section.get(name) for name in READ[kind]}
    if kind in CUT:
        found["max_length"] = recipe.get("max_length")
    if kind == "embeddings":
        found["pair"] = section.get("pair_columns") or (section.get("text_columns") or [])[:2]
    if kind == "text":
        found |= _of_text(section, "validation" if has_own else "train")
    return found


def _of_text(section: Mapping[str, Any], split: str) -> dict[str, Any]:
    """How evaluated rows are made of raw text: read from sources of their own, or held out of the training text."""
    sources = [{name: each.get(name) for name in OF_A_SOURCE} for each in section.get(split) or ()]
    held_out = {name: section.get(name) for name in OF_HELD_OUT} if split == "train" else {}
    return {"texts": sources, **held_out}
