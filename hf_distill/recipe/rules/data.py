"""The rows of a recipe, and what is made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.recipe.problems import Problem
from hf_distill.recipe.rules.reading import items, mappings, section_of

KINDS = (
    "text_columns", "question_answering", "token_classification", "translation", "chat", "speech", "embeddings",
    "text",
)  # fmt: skip
"""The keys of `data` that say what the rows are."""
OF_TEXTS = ("package", "where", "label_column", "label_names", "regression", "deduplicate", "exemplars")
"""The keys of `data` that go with `text_columns`."""
TEXTS_OF = {"triplets": 3, "parallel": 2}
"""The texts of a training row of sentences, of the kinds that say how many they are."""
SOURCES = ("files", "package", "hub")
"""The keys of `data` that say where its rows are; `text` says so itself."""


def copies(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A folder of copies is of a GLUE task."""
    if data.get("dataset_dir") is not None and data.get("data") is not None:
        yield Problem(("dataset_dir",), "holds copies of a GLUE task; with a data section give the files there.")


def rows(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What the rows are says which columns they have, and some of them are left to train on."""
    section = section_of(data, "data")
    if section.get("text_columns") is not None:
        if section.get("label_column") is None:
            yield Problem(("data", "label_column"), "is missing.")
    elif any(section.get(key) is not None for key in KINDS):
        for key in (key for key in OF_TEXTS if section.get(key)):
            yield Problem(("data", key), "goes with text_columns, texts that have a label each; leave it out.")
        if section.get("speech") is not None and section.get("hub") is not None:
            yield Problem(("data", "hub"), "does not go with speech; give files, parquet for example.")
    if section.get("regression") is True and section.get("label_names") is not None:
        yield Problem(
            ("data", "regression"), "is for labels that are scores, and label_names names classes; keep one."
        )
    columns = items(section.get("text_columns"))
    if section.get("label_column") is not None and section["label_column"] in columns:
        yield Problem(("data", "label_column"), f"{section['label_column']!r} is a text column as well.")
    if "label" in columns and section.get("label_column") != "label":
        yield Problem(("data", "text_columns"), "holds 'label', which is what labels are called; rename that column.")
    parts = [section_of(section, "split").get(name, 0) for name in ("validation", "test")]
    if all(isinstance(part, int | float) for part in parts) and sum(parts) >= 1:
        yield Problem(
            ("data", "split"), f"takes {parts[0]:g} + {parts[1]:g} of the training data; nothing would be left."
        )


def sentences(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Rows of sentences have the columns that their kind wants, and pairs to be judged by."""
    section, here = section_of(data, "data", "embeddings"), ("data", "embeddings")
    if not section:
        return
    kind, columns = section.get("rows", "sentences"), items(section.get("text_columns", ["text"]))
    wanted = next((texts for name, texts in TEXTS_OF.items() if name == kind), 0)
    if wanted and len(columns) != wanted:
        yield Problem((*here, "text_columns"), f"has {len(columns)} columns; rows: {kind} are {wanted} texts each.")
    if section.get("margin_column") is not None and kind != "triplets":
        yield Problem((*here, "margin_column"), f"goes with rows: triplets, and the rows are {kind}; leave it out.")
    if section_of(data, "teacher").get("fine_tune") is not None:
        text = "trains on labels, and sentences have none; take a teacher that is a sentence encoder."
        yield Problem(("teacher", "fine_tune"), text)
    pairs = items(section.get("pair_columns")) or columns[:2]
    if len(pairs) != 2:
        text = "is missing: an encoder is judged by pairs of texts; name the two columns of validation and test."
        yield Problem((*here, "pair_columns"), text)


def augmented(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Augmented rows are made of labelled texts, where a stage reads them."""
    stages = mappings(data.get("stages"))
    asking = [i for i, stage in stages if stage.get("rows") == "augmented"]
    if data.get("augmentation") is None:
        for i in asking:
            text = "are augmented, and the recipe has no augmentation; add it, or take the original rows."
            yield Problem(("stages", i, "rows"), text)
        return
    section = section_of(data, "data")
    kind = next((key for key in KINDS if key != "text_columns" and section.get(key) is not None), None)
    if kind is not None:
        yield Problem(("augmentation",), f"is for texts with a label, and the data have {kind}; leave it out.")
    elif not asking:
        yield Problem(("augmentation",), "is read by no stage; give one of them rows: augmented.")
