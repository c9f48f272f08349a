"""`hf-distill objectives`: what losses there are."""

from __future__ import annotations

import inspect
import shutil
import sys
import textwrap
from collections.abc import Sequence
from fnmatch import fnmatchcase

from hf_distill import objectives
from hf_distill.commands import reports_errors
from hf_distill.commands.help import Parser
from hf_distill.errors import RecipeError
from hf_distill.suggestions import did_you_mean

INDENT = " " * 4

DESCRIPTION = """Lists the objectives of recipes: their settings with the defaults, and what they are.

  hf-distill objectives
  hf-distill objectives soft_targets 'minilm*'"""


def parser() -> Parser:
    """The flags."""
    made = Parser("objectives", DESCRIPTION)
    made.add_argument("objective", nargs="*", help="only these: names, or patterns with * and ?")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the registered objectives with their settings and first lines; the exit status."""
    patterns = parser().parse_args(argv).objective
    sys.stdout.write(table(_named(patterns) if patterns else objectives.names()) + "\n")
    return 0


def _named(patterns: Sequence[str]) -> list[str]:
    """The objectives that a pattern fits.

    Raises: `RecipeError` for a pattern that fits none.
    """
    names = objectives.names()
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            hint = did_you_mean(pattern, names, ", ") or "."
            raise RecipeError(f"hf-distill objectives: there is no objective {pattern!r}{hint}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def table(names: Sequence[str]) -> str:
    """Name, the first line of the documentation, and settings with their defaults, of each objective."""
    return "\n\n".join(map(_block, names))


def _block(name: str) -> str:
    objective = objectives.get(name)
    settings = [_setting(parameter) for parameter in inspect.signature(objective).parameters.values()]
    first = (inspect.getdoc(objective) or "").partition("\n")[0]
    width = shutil.get_terminal_size().columns - 2
    lines = (first, ", ".join(settings) or "no settings")
    return "\n".join(
        [name, *(textwrap.fill(line, width, initial_indent=INDENT, subsequent_indent=2 * INDENT) for line in lines)]
    )


def _setting(parameter: inspect.Parameter) -> str:
    has_default = parameter.default is not inspect.Parameter.empty
    return f"{parameter.name}={parameter.default!r}" if has_default else parameter.name
