"""`generate_targets`: has a teacher write for the training rows, and trains nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from transformers import HfArgumentParser

from hf_distill.commands import lm, reports_errors, speech, translation
from hf_distill.commands.overrides import Script, recipe_of
from hf_distill.commands.script import begin, output_dir, parser_of
from hf_distill.errors import RecipeError
from hf_distill.ranks import is_main_process
from hf_distill.recipe import Recipe
from hf_distill.runs import generate_targets
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.generating import texts_counted, told_of
from hf_distill.suggestions import did_you_mean

DESCRIPTION = """Have the teacher write, by beam search, for every training row, into --generated_folder FOLDER.

The flags are those of `hf-distill translation`, or, behind the word lm, those of `hf-distill lm`, whose teacher
answers conversations, or, behind the word speech, those of `hf-distill speech`, whose teacher hears. That command,
run with the same ones, learns from the folder. Broken off, it goes on where it was.

  hf-distill generate-targets --train_file pairs.jsonl --teacher_name_or_path TEACHER \\
      --student_layers 3 --generated_folder texts"""

SCRIPTS: dict[str, Script] = {script.name: script for script in (translation.SCRIPT, lm.SCRIPT, speech.SCRIPT)}


def parsers() -> dict[str, HfArgumentParser]:
    """The flags by the first word, which need not be there."""
    return {"": parser_of(_shown(translation.SCRIPT)), **{name: parser_of(_shown(s)) for name, s in SCRIPTS.items()}}


def _shown(script: Script) -> Script:
    """The script as it shows itself here."""
    return replace(script, name=f"generate-targets {script.name}", description=DESCRIPTION)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    script, words = _script(sys.argv[1:] if argv is None else list(argv))
    _, flags = begin(_shown(script), words)
    recipe, name = recipe_of(flags, script)
    home = output_dir(flags, name)
    folder, facts = generate_targets(recipe, home)
    if is_main_process():
        counts = texts_counted(RunFolder(home))
        told = f": {told_of(counts)}" if counts else ""
        sys.stdout.write(f"{folder}: the texts of {facts.rows} rows{told}\n")
    return 0


def _script(words: list[str]) -> tuple[Script, list[str]]:
    """The script that the first word names, or else the recipe's kind of data, and the other words.

    Raises: `RecipeError` for another word.
    """
    if words and not words[0].startswith("-"):
        if words[0] not in SCRIPTS:
            hint = did_you_mean(words[0], SCRIPTS, ", ") or "."
            raise RecipeError(
                f"generate_targets: {words[0]!r} is no kind of data{hint} The first word may be {', '.join(SCRIPTS)}."
            )
        return SCRIPTS[words[0]], words[1:]
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--recipe", nargs="?")
    named = parser.parse_known_args(words)[0].recipe
    data = None if named is None else Recipe.load(named).data
    kinds = {speech: data is not None and data.speech is not None, lm: data is not None and data.chat is not None}
    return next((kind for kind, is_it in kinds.items() if is_it), translation).SCRIPT, words
