"""`distill_translation`: texts made of texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hf_distill.commands.flags import FILES, HUB, ON_POLICY, WRITING, WRITING_KEYS, flag, whole
from hf_distill.commands.overrides import Changes, Script, name_of_rows, on_policy, on_rows, on_targets
from hf_distill.commands.script import entry_points
from hf_distill.errors import RecipeError
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

GENERATION = {
    "predict_with_generate": {
        "help": "Have student, teacher and control generate in evaluation, and score the texts by BLEU, chrF and "
        "ROUGE; with --do_predict those of the tests are written to predict_results_test.txt.",
        "action": "store_true",
    },
    "generation_num_beams": flag("Beams with which they generate (default: 1, greedy).", whole),
    "generation_max_new_tokens": flag("Tokens of what they generate at most (default: --max_target_length).", whole),
}

KEYS = {
    "source_column": "source_column",
    "target_column": "target_column",
    "source_prefix": "prefix",
    "max_target_length": "max_target_length",
}

GENERATION_KEYS = {"generation_num_beams": "beams", "generation_max_new_tokens": "max_new_tokens"}


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    rows = _generation(own, recipe, on_rows(own, recipe, "translation", KEYS))
    return {**rows, **on_targets(own, recipe, WRITING_KEYS), **on_policy(own, recipe)}


def _generation(own: Mapping[str, Any], recipe: Recipe, rows: Changes) -> Changes:
    """What flags ask for about generating in evaluation, beside what they ask for about `rows`.

    Raises: `RecipeError` for settings of what is not asked for.
    """
    given = {key: own[name] for name, key in GENERATION_KEYS.items() if name in own}
    section = None if recipe.data is None else recipe.data.translation
    before = None if section is None or section.generate is None else section.generate.model_dump()
    asked = own.get("predict_with_generate") or before is not None
    if not asked:
        if given:
            name = next(name for name in GENERATION_KEYS if name in own)
            raise RecipeError(f"command line: --{name} goes with --predict_with_generate, and is given without.")
        return rows
    settings = {**(before or {}), **given}
    if "data" in rows:
        origin, data = rows["data"]
        return {**rows, "data": (origin, {**data, "translation": {**data["translation"], "generate": settings}})}
    return {**rows, "data.translation.generate": ("--predict_with_generate", settings)}


SCRIPT = Script(
    name="translation",
    description=DESCRIPTION,
    flags={**HUB, **FILES, **SETTINGS, **GENERATION, **WRITING, **ON_POLICY},
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

parser, main = entry_points(SCRIPT)
