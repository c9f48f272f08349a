"""`generate_targets`: has a teacher write for the training rows, and trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

from hf_distill.commands import reports_errors, translation
from hf_distill.commands.overrides import recipe_of
from hf_distill.commands.script import begin, output_dir
from hf_distill.run import generate_targets
from hf_distill.run.folder import is_main_process

DESCRIPTION = """Have the teacher write, by beam search, for every training row, into --generated_folder FOLDER.

The flags are those of distill_translation, which, run with the same ones, learns from the folder. Broken off, it goes
on where it was."""


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    _, flags = begin(replace(translation.SCRIPT, description=DESCRIPTION), argv)
    recipe, name = recipe_of(flags, translation.SCRIPT)
    folder, facts = generate_targets(recipe, output_dir(flags, name))
    if is_main_process():
        sys.stdout.write(f"{folder}: the texts of {facts.rows} rows\n")
    return 0
