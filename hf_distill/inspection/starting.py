"""A recipe to start from, for a teacher, a student and data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from hf_distill.errors import IncompatiblePair
from hf_distill.inspection.binding import bound_stages
from hf_distill.inspection.blueprint import Blueprint, configuration, stored_class
from hf_distill.recipe import Recipe
from hf_distill.runs.labels import stored_labels
from hf_distill.sentence_modules import read_modules
from hf_distill.tasks import HEADS

SOURCE = "the recipe that doctor makes"

ENDINGS = {"ForSequenceClassification": "single_label", **HEADS}
"""Tasks by the end of the name of the class that wrote a checkpoint; an encoder without a head has none of them."""

SECTIONS = {"question_answering": "question_answering", "seq2seq_lm": "translation", "ctc": "speech"}
"""The sections of `data` that say a task."""

HALVES = [{"soft_targets": {"temperature": 2.0}, "weight": 0.5}, {"labels": {}, "weight": 0.5}]
OBJECTIVES: dict[str, list[dict[str, Any]]] = {
    "masked_lm": [
        {"soft_targets": {"temperature": 2.0}, "weight": 5.0},
        {"labels": {}, "weight": 2.0},
        {"hidden_cosine": {"layer_map": "final"}, "weight": 1.0},
    ],
    "encoder": [{"minilm_v2": {}}],
    "embeddings": [{"embedding_mse": {}}],
    "ctc": [{"labels": {}}],
    "causal_lm": [{"soft_targets": {"temperature": 1.0}, "weight": 0.9}, {"labels": {}, "weight": 0.1}],
}
"""Terms to start with; those that do not fit the pair are left out. Other tasks have both halves."""

ARGUMENTS = {"num_train_epochs": 3, "learning_rate": 5.0e-5, "warmup_steps": 0.1, "per_device_train_batch_size": 32}
TRAIN, LABEL, TAGS, PAIRS = "train.jsonl", "label", "ner_tags", ["sentence1", "sentence2"]
"""The file and the columns of a start where no flag names others."""
LONGEST_CHAT = 1024


def task_of(teacher: str) -> str:
    """The task that a teacher was saved for, by the name of its class, and by the modules of sentence-transformers.

    Raises: `DistillationError` for a teacher without a configuration.
    """
    stored = stored_class(configuration(teacher, "teacher", None, False))
    found = next((task for ending, task in ENDINGS.items() if stored.endswith(ending)), "encoder")
    return "embeddings" if found == "encoder" and read_modules(teacher, "teacher") is not None else found


def data_for(teacher: str, rows: Mapping[str, Any] | None, columns: Mapping[str, Any]) -> dict[str, Any]:
    """The section `data` of a recipe for a teacher's task; `rows` are its keys `files`, or `hub`, and `split`, None
    for a file train.jsonl. `columns` are keys that go with texts and labels, in place of the usual ones; they name
    tokens and tags, and pairs and their score, as well. Rows of a causal model hold conversations, unless they are
    .txt or a column of texts is named.
    """
    task = task_of(teacher)
    given = {"files": {"train": TRAIN}, "split": {"validation": 0.1}} if rows is None else dict(rows)
    if task == "causal_lm" and rows is not None and not _is_text(rows, columns):
        return {**given, "chat": {}}
    if task in ("masked_lm", "causal_lm", "encoder"):
        return {"text": {"task": task, **_sources(given, columns)}}
    if task == "embeddings":
        return {**given, "embeddings": _sentences(columns)}
    if task == "single_label":
        return {**given, "text_columns": ["text"], "label_column": LABEL, **_label_names(teacher), **columns}
    if task == "token_classification":
        return {**given, "token_classification": _tags(teacher, columns)}
    return {**given, SECTIONS[task]: {}}


def _sources(rows: Mapping[str, Any], columns: Mapping[str, Any]) -> dict[str, Any]:
    """Raw text, by split."""
    named = {"column": columns["text_columns"][0]} if "text_columns" in columns else {}
    if "hub" in rows:
        return {"train": [{"hub": rows["hub"], **named}]}
    return {split: [{"files": [path], **named}] for split, path in rows["files"].items() if split != "test"}


def _sentences(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Of a sentence encoder: two columns of texts are the pairs as well, whose score is the label, if one is named."""
    texts = columns.get("text_columns", ["text"])
    pairs = {"pair_columns": PAIRS, "score_column": LABEL} if len(texts) == 1 else {}
    score = {"score_column": columns["label_column"]} if "label_column" in columns else {}
    return {"text_columns": texts, **pairs, **score}


def _tags(teacher: str, columns: Mapping[str, Any]) -> dict[str, Any]:
    """Of tagged tokens; the columns are those of `distill_ner` where none is named."""
    tokens = {"tokens_column": columns["text_columns"][0]} if "text_columns" in columns else {}
    names = _label_names(teacher).get("label_names")
    known = {"tag_names": names} if names else {}
    return {**tokens, "tags_column": columns.get("label_column", TAGS), **known}


def _is_text(rows: Mapping[str, Any], columns: Mapping[str, Any]) -> bool:
    """Whether rows are raw text and not conversations, as `distill_lm` takes them."""
    file = rows.get("files", {}).get("train", "")
    return "text_columns" in columns or PurePath(file.removesuffix(".gz")).suffix == ".txt"


def _longest_chat(teacher: str) -> int:
    """Tokens of a conversation, as `distill_lm` has it, or as many as the teacher reads."""
    known = getattr(configuration(teacher, "teacher", None, False), "max_position_embeddings", None)
    return min(LONGEST_CHAT, known) if isinstance(known, int) and known > 0 else LONGEST_CHAT


def _label_names(teacher: str) -> dict[str, list[str]]:
    """The teacher's, if they have names: of others the data tell what they are."""
    names = stored_labels(teacher)
    return {"label_names": [*names]} if len(names) > 1 else {}


def starting_recipe(
    teacher: str, student: Mapping[str, Any], data: Mapping[str, Any], batch: int | None = None
) -> dict[str, Any]:
    """A recipe, as plain values: the usual objectives of the teacher's task that fit the pair. `data` are the keys
    `task` and `dataset_dir`, or `data`, of a recipe.

    Raises: `IncompatiblePair` where none of them fits.
    """
    arguments = {**ARGUMENTS, **({} if batch is None else {"per_device_train_batch_size": batch})}
    terms = OBJECTIVES.get(task_of(teacher), HALVES)
    stage = {"name": "distil", "objectives": terms, "arguments": arguments}
    made = {"schema": 1, **data, "teacher": {"model": teacher}, "student": dict(student), "stages": [stage]}
    if "chat" in data.get("data", {}):
        made["max_length"] = _longest_chat(teacher)
    found = next(bound_stages(Blueprint(Recipe.from_dict(made, SOURCE))))
    refused = [problem for _, problem in found.terms]
    fitting = [entry for entry, problem in zip(terms, refused, strict=True) if not problem]
    if not fitting:
        raise IncompatiblePair(refused[0])
    return {**made, "stages": [{**stage, "objectives": fitting}]}
