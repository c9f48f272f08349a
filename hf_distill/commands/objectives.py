"""`hf-distill objectives`: what losses there are."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

from hf_distill import objectives
from hf_distill.commands import reports_errors
from hf_distill.errors import RecipeError


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Prints the registered objectives with their settings and first lines."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words and words[0] not in ("-h", "--help"):
        raise RecipeError(f"hf-distill objectives takes no arguments; given {words[0]!r}.")
    sys.stdout.write(table() + "\n")
    return 0


def table() -> str:
    """Name, settings with their defaults, and the first line of the documentation, of every objective."""
    blocks = []
    for name in objectives.names():
        objective = objectives.get(name)
        settings = [_setting(parameter) for parameter in inspect.signature(objective).parameters.values()]
        first = (inspect.getdoc(objective) or "").partition("\n")[0]
        blocks.append(f"{name}\n    {first}\n    {', '.join(settings) or 'no settings'}")
    return "\n\n".join(blocks)


def _setting(parameter: inspect.Parameter) -> str:
    has_default = parameter.default is not inspect.Parameter.empty
    return f"{parameter.name}={parameter.default!r}" if has_default else parameter.name
