"""`distill_qa`: questions whose answers are spans of a text, SQuAD and data in its form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.commands.flags import FILES, HUB, flag, whole
from hf_distill.commands.overrides import HALF_AND_HALF, Changes, Script, name_of_rows, on_rows
from hf_distill.commands.script import entry_points
from hf_distill.recipe import Recipe

DESCRIPTION = """Distil a teacher into a smaller student, on SQuAD or on questions of your own with answers in a text.

Rows are those of SQuAD: id, context, question, and answers with text and answer_start.

  hf-distill qa --recipe qa/squad --teacher_name_or_path TEACHER --output_dir students/squad
  hf-distill qa --train_file mine.jsonl --teacher_name_or_path TEACHER \\
      --student_layers 3 --output_dir students/questions"""

SETTINGS = {
    "version_2_with_negative": {"help": "Some questions have no answer, as in SQuAD v2.", "action": "store_true"},
    "doc_stride": flag("Tokens that two windows over a long context share (default: 128).", whole),
    "n_best_size": flag("How many starts, and how many ends, are looked at in each window (default: 20).", whole),
    "max_answer_length": flag("Tokens of an answer at most (default: 30).", whole),
    "null_score_diff_threshold": flag(
        "No answer is given where its score is higher than that of the best one by more than this (default: 0).", float
    ),
}


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    return on_rows(own, recipe, "question_answering", {name: name for name in SETTINGS})


SCRIPT = Script(
    name="qa",
    description=DESCRIPTION,
    flags={**HUB, **FILES, **SETTINGS},
    plain={
        "schema": 1,
        "data": {"files": {"train": "train"}, "question_answering": {}},
        "max_length": 384,
        "teacher": {"model": "teacher"},
        "student": {"from_layers": {"layers": 1}},
        "stages": HALF_AND_HALF,
    },
    data_name=name_of_rows,
    data=_data,
)

parser, main = entry_points(SCRIPT)
