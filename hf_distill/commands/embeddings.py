"""`distill_embeddings`: vectors of sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.commands.flags import FILES, HUB, flag, names_in
from hf_distill.commands.overrides import Changes, Script, name_of_rows, on_rows
from hf_distill.commands.script import entry_points
from hf_distill.data.sentences import BESIDE
from hf_distill.recipe import Recipe
from hf_distill.sentences import POOLINGS, SIMILARITIES

DESCRIPTION = """Distil a sentence encoder into a smaller one, which sentence-transformers loads.

Training rows are sentences, triplets (a query, a passage that answers it, one that does not) or parallel texts.
Validation is of pairs of texts: with gold scores (--score_column) similarities are compared with them, without, the
second text is searched by the first. Pooling, normalisation and similarity are the teacher's, unless they are given.

  hf-distill embeddings --train_file train.jsonl --validation_file validation.jsonl \\
      --text_columns sentence1,sentence2 --score_column label \\
      --teacher_name_or_path TEACHER --student_layers 3 --output_dir students/encoder
  hf-distill embeddings --recipe embeddings/cosine --train_file train.jsonl --text_columns text \\
      --validation_file pairs.jsonl --pair_columns question,passage \\
      --teacher_name_or_path TEACHER --student_layers 3 --output_dir students/encoder"""

SETTINGS = {
    "rows": {"help": "What a training row is (default: sentences).", "choices": [*BESIDE]},
    "text_columns": flag("The columns of the training texts (default: text,other).", names_in),
    "pair_columns": flag(
        "The two columns of validation and test (default: the first two of text_columns); their scores, if "
        "they have any, are named beside them.",
        names_in,
    ),
    "score_column": flag("The column of gold similarities, 0 to 5; without it texts are searched."),
    "margin_column": flag("The column of a teacher's margins, of triplets."),
    "pooling": {"help": "How token states become a vector (default: as the teacher's).", "choices": [*POOLINGS]},
    "normalize": {
        "help": "Whether the student's vectors have the length 1 (default: as the teacher's).",
        "choices": ["true", "false"],
    },
    "similarity": {"help": "How two vectors are compared (default: as the teacher's).", "choices": [*SIMILARITIES]},
}

KEYS = {name: name for name in SETTINGS}


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    told = {"normalize": own["normalize"] == "true"} if "normalize" in own else {}
    unscored = {"score_column": None} if "pair_columns" in own else {}  # a recipe's scores are those of its own pairs
    return on_rows({**unscored, **own, **told}, recipe, "embeddings", KEYS)


SCRIPT = Script(
    name="embeddings",
    description=DESCRIPTION,
    flags={**HUB, **FILES, **SETTINGS},
    plain={
        "schema": 1,
        "data": {"files": {"train": "train"}, "embeddings": {"text_columns": ["text", "other"]}},
        "max_length": 128,
        "teacher": {"model": "teacher"},
        "student": {"from_layers": {"layers": 1}},
        "control": True,
        "stages": [{"name": "distil", "objectives": [{"embedding_mse": {}}]}],
    },
    data_name=name_of_rows,
    data=_data,
)

parser, main = entry_points(SCRIPT)
