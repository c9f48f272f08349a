"""`distill_speech`: sounds, and what is said in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.commands.flags import FILES, flag, whole
from hf_distill.commands.overrides import Changes, Script, name_of_rows, on_rows, on_targets
from hf_distill.commands.script import entry_points
from hf_distill.recipe import Recipe

DESCRIPTION = """Distil a teacher that hears (AutoModelForCTC) into a smaller student.

Rows are sounds, WAV files above all, with the text that is said in each. Without a recipe the student learns the
teacher's best hypotheses of the training sounds, weighed by their probabilities, which are searched for once.

  hf-distill speech --train_file sounds.jsonl --teacher_name_or_path TEACHER \\
      --student_name_or_path STUDENT --output_dir students/listener"""

SETTINGS = {
    "audio_column": flag(
        "The column of the sounds: paths, from the rows' file on, or lists of samples (default: audio)."
    ),
    "text_column": flag("The column of what is said (default: text)."),
    "sampling_rate": flag("Samples a second of lists (default: what the models hear).", whole),
}

HEARING = {
    "generated_folder": flag("Where what the teacher hears is kept (default: in the folder of the run)."),
    "num_beams": flag("Beams of the teacher's search (default: 16).", whole),
    "num_hypotheses": flag("The best ones that are kept of each sound (default: 8).", whole),
    "targets": {
        "help": "What stages learn: the texts of the data, or of what the teacher hears the best, or all.",
        "choices": ["reference", "best", "all"],
    },
}

KEYS = {name: name for name in SETTINGS}

HEARING_KEYS = {"generated_folder": "folder", "num_beams": "beams", "num_hypotheses": "hypotheses"}


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    return {**on_rows(own, recipe, "speech", KEYS), **on_targets(own, recipe, HEARING_KEYS)}


SCRIPT = Script(
    name="speech",
    description=DESCRIPTION,
    flags={**FILES, **SETTINGS, **HEARING},
    plain={
        "schema": 1,
        "data": {"files": {"train": "train"}, "speech": {}},
        "teacher": {"model": "teacher", "generate": {"beams": 16, "hypotheses": 8}},
        "student": {"model": "student"},
        "stages": [{"name": "distil", "targets": "all", "objectives": [{"ctc_nbest_kd": {}}]}],
    },
    data_name=name_of_rows,
    data=_data,
)

parser, main = entry_points(SCRIPT)
