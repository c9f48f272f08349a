"""`hf-distill`: the commands by name. A command's module is imported when the command is run, not before."""

from __future__ import annotations

import importlib
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hf_distill.commands import Command, reports_errors
from hf_distill.errors import RecipeError
from hf_distill.suggestions import did_you_mean
from hf_distill.version import __version__


class Row(NamedTuple):
    """A command: its module in `hf_distill/commands`, which has `main(argv)`, and what it does, in a few words."""

    module: str
    meaning: str


GROUPS: dict[str, dict[str, Row]] = {
    "Train a student": {
        "glue": Row("glue", "on a GLUE task, or on texts of your own with classes or a score each"),
        "qa": Row("qa", "on SQuAD, or on questions of your own with answers in a text"),
        "ner": Row("ner", "on tokens with a tag each: named entities, parts of speech"),
        "mlm": Row("mlm", "on raw text, with masked words or without a head"),
        "lm": Row("lm", "that writes on: a language model, on conversations or on raw text"),
        "translation": Row("translation", "that writes: translations, summaries"),
        "embeddings": Row("embeddings", "that gives sentences their vectors"),
        "speech": Row("speech", "that hears: sounds and what is said in them"),
        "auto": Row("auto", "the best one for a budget of time or size on this machine"),
    },
    "Look": {
        "report": Row("report", "the page of a finished run, or of all the runs in a folder"),
        "compare": Row("compare", "recipes side by side on one task, each with several seeds"),
        "objectives": Row("objectives", "the losses there are, with their settings"),
        "explain": Row("explain", "the loss of a recipe as a formula, with its papers, layers and shapes"),
        "doctor": Row("doctor", "before training: whether two models fit, and what a step will cost"),
        "similarity": Row("similarity", "how alike the layers of two models are"),
    },
    "Make and give": {
        "cache": Row("cache_teacher", "write down once what a teacher shows of the training rows"),
        "generate-targets": Row("generate", "have a teacher write the texts to learn from"),
        "publish": Row("publish", "put the student of a finished run on the Hub, with card and record"),
        "export": Row("export", "write a trained classifier in 8 bits, or as an ONNX graph"),
    },
    "The command line itself": {
        "completion": Row("completion", "the script with which a shell completes all this"),
    },
}

COMMANDS = {name: row for group in GROUPS.values() for name, row in group.items()}

OTHER_NAMES = {"cache-teacher": "cache"}
"""What a command was called before."""

EXAMPLES = """\
hf-distill glue --recipe quickstart --output_dir students/quickstart
hf-distill glue --task_name sst2 --teacher_name_or_path TEACHER --student_layers 3 --output_dir students/sst2
hf-distill help glue
"""


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command that the first word names; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["help"] and len(words) > 1:
        every = words[2:] and words[-1] == "all"
        words = [*words[1:-1], "--help", "all"] if every else [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        sys.stdout.write(overview() + "\n")
        return 0
    if words[0] == "--version":
        sys.stdout.write(f"hf-distill {__version__}\n")
        return 0
    return command(words[0])(words[1:])


def command(name: str) -> Command:
    """The command of a name.

    Raises: `RecipeError` for a name that no command has, with the nearest one that is.
    """
    row = COMMANDS.get(OTHER_NAMES.get(name, name))
    if row is None:
        hint = did_you_mean(name, COMMANDS, ", ") or "."
        raise RecipeError(f"hf-distill: unknown command {name!r}{hint} `hf-distill --help` lists the commands.")
    found: Command = importlib.import_module(f"hf_distill.commands.{row.module}").main
    return found


def overview() -> str:
    """What `hf-distill` alone says: the commands by what they are for, as wide as the terminal."""
    return "\n".join(
        [
            "usage: hf-distill COMMAND [flags]",
            "",
            "Distil Hugging Face models: train a small student that does what a large teacher does.",
            *_listed(),
            "",
            "Examples:",
            textwrap.indent(EXAMPLES, "  "),
            "`hf-distill help COMMAND` explains a command and its flags; `hf-distill --version` says the version.",
        ]
    )


def _listed() -> Iterator[str]:
    width = min(shutil.get_terminal_size().columns, 120)
    column = max(map(len, COMMANDS)) + 4
    for title, group in GROUPS.items():
        yield f"\n{title}:"
        for name, row in group.items():
            yield textwrap.fill(
                row.meaning,
                max(width, column + 20),
                initial_indent=f"  {name}".ljust(column),
                subsequent_indent=" " * column,
            )
