"""`cache_teacher`: writes what a teacher shows of the training rows, and trains nothing."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from hf_distill.commands import embeddings, glue, lm, mlm, ner, qa, reports_errors, served, translation
from hf_distill.commands.help import page
from hf_distill.commands.overrides import Script, recipe_of
from hf_distill.commands.script import begin, output_dir, parser_of
from hf_distill.errors import RecipeError
from hf_distill.ranks import is_main_process
from hf_distill.runs import cache_teacher
from hf_distill.suggestions import did_you_mean

KINDS = (glue, qa, ner, mlm, lm, embeddings, translation)

SCRIPTS: dict[str, Script] = {kind.SCRIPT.name: kind.SCRIPT for kind in KINDS}

DESCRIPTION = """Writes what the objectives read of the teacher for the training rows into --cache_teacher FOLDER,
where it is not there yet. The flags are those of the command that trains, which, run with the same ones, goes without
the teacher in memory. cache NAME --help lists them. Behind the word served the cache is made of what a server told of
texts, without the teacher.

  hf-distill cache glue --task_name sst2 --teacher_name_or_path TEACHER --student_layers 3 \\
      --cache_teacher caches/sst2
  hf-distill cache served --records answers.jsonl --tokenizer_name_or_path STUDENT \\
      --cache_teacher caches/served"""


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The flags by the first word."""
    return {**{name: parser_of(_shown(script)) for name, script in SCRIPTS.items()}, served.NAME: served.parser()}


def _shown(script: Script) -> Script:
    """The script as it shows itself here."""
    return replace(script, name=f"cache {script.name}", description=DESCRIPTION)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(page("cache", f"({' | '.join((*SCRIPTS, served.NAME))}) [flags]", DESCRIPTION))
        return 0
    if words[0] == served.NAME:
        return served.run(words[1:])
    if words[0] not in SCRIPTS:
        known = (*SCRIPTS, served.NAME)
        hint = did_you_mean(words[0], known, ", ") or "."
        raise RecipeError(
            f"cache: {words[0]!r} is no kind of data{hint} The first word is one of {', '.join(known)}, as in "
            "distill_glue."
        )
    script = SCRIPTS[words[0]]
    _, flags = begin(_shown(script), words[1:])
    recipe, name = recipe_of(flags, script)
    folder, facts = cache_teacher(recipe, output_dir(flags, name))
    if is_main_process():
        rows = sum(shard.rows for shard in facts.shards)
        sys.stdout.write(f"{folder}: {rows} rows, fingerprint {facts.digest}\n")
    return 0
