"""`hf-distill`: the commands by name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from hf_distill.commands import (
    Command,
    cache_teacher,
    compare,
    export,
    generate,
    glue,
    mlm,
    ner,
    objectives,
    qa,
    reports_errors,
    similarity,
    speech,
    translation,
)
from hf_distill.errors import RecipeError
from hf_distill.suggestions import did_you_mean
from hf_distill.version import __version__

COMMANDS: dict[str, tuple[Command, str]] = {
    "glue": (glue.main, "distil on a GLUE task or on texts of your own (as scripts/distill_glue.py)"),
    "qa": (qa.main, "distil on SQuAD or on questions of your own (as scripts/distill_qa.py)"),
    "ner": (ner.main, "distil on tokens with a tag each (as scripts/distill_ner.py)"),
    "mlm": (mlm.main, "distil on raw text (as scripts/distill_mlm.py)"),
    "translation": (translation.main, "distil models that write (as scripts/distill_translation.py)"),
    "speech": (speech.main, "distil models that hear (as scripts/distill_speech.py)"),
    "generate-targets": (generate.main, "have a teacher write to learn from (as scripts/generate_targets.py)"),
    "cache-teacher": (cache_teacher.main, "write down what a teacher shows (as scripts/cache_teacher.py)"),
    "export": (export.main, "write a classifier in 8 bits (as scripts/export.py)"),
    "compare": (compare.main, "compare recipes on one task (as scripts/compare.py)"),
    "objectives": (objectives.main, "list the objectives and their settings"),
    "similarity": (similarity.main, "compare the layers of two models (as scripts/layer_similarity.py)"),
}

USAGE = "\n".join(
    [
        "usage: hf-distill COMMAND [flags]",
        "",
        *(f"  {name:<17}{meaning}" for name, (_, meaning) in COMMANDS.items()),
        "",
        "hf-distill COMMAND --help lists the flags of a command; --version prints the version.",
    ]
)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(USAGE + "\n")
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"hf-distill {__version__}\n")
        return 0
    if words[0] not in COMMANDS:
        hint = did_you_mean(words[0], COMMANDS, ", ") or "."
        raise RecipeError(f"hf-distill: unknown command {words[0]!r}{hint} The commands are {', '.join(COMMANDS)}.")
    return COMMANDS[words[0]][0](words[1:])
