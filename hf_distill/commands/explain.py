"""`hf-distill explain`: the loss of a recipe as a formula."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from hf_distill.commands import reports_errors
from hf_distill.commands.console import quiet
from hf_distill.commands.help import Parser
from hf_distill.inspection.explanation import explain
from hf_distill.recipe import Recipe
from hf_distill.recipe.loading import shipped

DESCRIPTION = """\
Prints the total loss of a recipe as a formula, stage by stage: each term with its equation, weight, the layers that it
pairs, the shapes of what it reads, what it learns, and its paper; and which parameters train.

No data and no weights are read: models are known by their configurations. Where one cannot be had, the formula stands
alone. Without a recipe, the names of the shipped ones."""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = Parser("explain", DESCRIPTION, epilog="example: hf-distill explain glue/sst2")
    made.add_argument(
        "recipe", metavar="RECIPE", nargs="?", help="a .yaml file, or the name of a shipped recipe; none lists these"
    )
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    given = parser().parse_args(argv)
    if given.recipe is None:
        sys.stdout.write("\n".join(shipped()) + "\n")
        return 0
    with quiet():
        text = explain(Recipe.load(given.recipe))
    sys.stdout.write(text + "\n")
    return 0
