"""`distill_ner`: a tag for each token, named entities and the like."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.commands.flags import FILES, HUB, flag, names_in
from hf_distill.commands.overrides import HALF_AND_HALF, Changes, Script, name_of_rows, on_rows
from hf_distill.commands.script import entry_points
from hf_distill.recipe import Recipe

DESCRIPTION = """Distil a teacher into a smaller student that tags tokens: named entities, parts of speech.

Rows are a list of tokens, and a list of tags, names or numbers, with one for each.

  hf-distill ner --train_file mine.jsonl --teacher_name_or_path TEACHER \\
      --student_layers 3 --output_dir students/names"""

SETTINGS = {
    "text_column_name": flag("The column of the tokens (default: tokens)."),
    "label_column_name": flag("The column of the tags (default: ner_tags)."),
    "class_names": flag("The tags in the order of their numbers: O,B-PER,I-PER.", names_in),
    "label_all_tokens": {
        "help": "Train on every word piece of a token, not only on its first.",
        "action": "store_true",
    },
}

KEYS = {
    "text_column_name": "tokens_column",
    "label_column_name": "tags_column",
    "class_names": "tag_names",
    "label_all_tokens": "label_all_tokens",
}


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    return on_rows(own, recipe, "token_classification", KEYS)


SCRIPT = Script(
    name="ner",
    description=DESCRIPTION,
    flags={**HUB, **FILES, **SETTINGS},
    plain={
        "schema": 1,
        "data": {"files": {"train": "train"}, "token_classification": {"tags_column": "ner_tags"}},
        "max_length": 128,
        "teacher": {"model": "teacher"},
        "student": {"from_layers": {"layers": 1}},
        "stages": HALF_AND_HALF,
    },
    data_name=name_of_rows,
    data=_data,
)

parser, main = entry_points(SCRIPT)
