"""`distill_translation`: texts made of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import HfArgumentParser

from hf_distill.commands import reports_errors
from hf_distill.commands.flags import FILES, HUB, ON_POLICY, flag, settings_in, whole
from hf_distill.commands.overrides import Changes, Script, name_of_rows, on_policy, on_rows, on_targets
from hf_distill.commands.script import begin, distil, parser_of
from hf_distill.data.hypotheses import CHOICES
from hf_distill.recipe import Recipe

DESCRIPTION = """Distil a teacher into a smaller student that writes: translations, summaries and the like.

Rows are pairs of texts, one to read and one to write. Without a recipe the student learns what the teacher's beam
search writes, which generate-targets writes down before, if it is run with the same flags.

  hf-distill generate-targets --train_file pairs.jsonl --teacher_name_or_path TEACHER \\
      --student_layers 3 --generated_folder texts
  hf-distill translation --train_file pairs.jsonl --teacher_name_or_path TEACHER \\
      --student_layers 3 --generated_folder texts --output_dir students/translator"""

SETTINGS = {
    "source_column": flag("The column of the text to read (default: source)."),
    "target_column": flag("The column of the text to write (default: target)."),
    "source_prefix": flag("What stands before each text to read."),
    "max_target_length": flag("Tokens of a text to write at most (default: 128).", whole),
}

WRITING = {
    "generated_folder": flag("Where what the teacher writes is kept (default: in the folder of the run)."),
    "num_beams": flag("Beams of the teacher's search (default: 5).", whole),
    "num_hypotheses": flag("The best ones that are kept of each row (default: 1).", whole),
    "max_new_tokens": flag("Tokens of what it writes at most (default: 128).", whole),
    "generated_filters": flag(
        'Which of its texts are learned, in JSON: \'{"max_repetition": 0.3, "distinct": true}\'.', settings_in
    ),
    "targets": {
        "help": "What stages learn: the texts of the data, or of what the teacher writes the best one, the nearest to "
        "that of the data, or all.",
        "choices": ["reference", *CHOICES],
    },
}

KEYS = {
    "source_column": "source_column",
    "target_column": "target_column",
    "source_prefix": "prefix",
    "max_target_length": "max_target_length",
}

WRITING_KEYS = {
    "generated_folder": "folder",
    "num_beams": "beams",
    "num_hypotheses": "hypotheses",
    "max_new_tokens": "max_new_tokens",
    "generated_filters": "filters",
}


def parser() -> HfArgumentParser:
    """The flags."""
    return parser_of(SCRIPT)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    return distil(SCRIPT, *begin(SCRIPT, argv))


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    rows, targets = on_rows(own, recipe, "translation", KEYS), on_targets(own, recipe, WRITING_KEYS)
    return {**rows, **targets, **on_policy(own, recipe)}


SCRIPT = Script(
    name="translation",
    description=DESCRIPTION,
    flags={**HUB, **FILES, **SETTINGS, **WRITING, **ON_POLICY},
    plain={
        "schema": 1,
        "data": {"files": {"train": "train"}, "translation": {}},
        "max_length": 128,
        "teacher": {"model": "teacher", "generate": {}},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "targets": "best", "objectives": [{"labels": {}}]}],
    },
    data_name=name_of_rows,
    data=_data,
)
