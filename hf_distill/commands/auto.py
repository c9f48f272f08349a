"""`auto`: from a budget to a student, the best one that a machine can run in a given time or size."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import datasets
import transformers
from transformers import HfArgumentParser

from hf_distill.commands import glue, reports_errors
from hf_distill.commands.console import configure_logging, quiet
from hf_distill.commands.flags import Flags, Group, flag, make_parser, parse, whole
from hf_distill.commands.overrides import SOURCES, recipe_of
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.search import Budget, Settings, find
from hf_distill.search.forms import RUNTIMES

RECIPES = ("comparisons/soft_targets", "comparisons/distilbert", "comparisons/minilm_v2", "comparisons/pkd")
"""What is tried unless other recipes are named; those that a shape cannot take are told and passed over."""

DESCRIPTION = """The best student that keeps to a budget of time or size, for a teacher of texts with a label.

Times students of many shapes and forms on this machine, tries recipes on the largest that fit, trains the best one on
all rows, and writes it in its form with auto.json and auto.png: accuracy against time, teacher and control on it.
Trials are judged on a tenth of the training rows; the validation rows are looked at once, at the end.

  hf-distill auto --teacher TEACHER --task_name sst2 --latency_share 0.25 --output_dir students/sst2"""

MINUTE, HOUR = 60.0, 3600.0
UNITS = {"": 1.0, "s": 1.0, "min": MINUTE, "m": MINUTE, "h": HOUR}


def seconds_in(text: str) -> float:
    """`90`, `90s`, `30min` and `2h` are times."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|s|m|min|h)", text.strip())
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time above 0 such as 90s, 30min or 2h")
    return float(found[1]) * UNITS[found[2]]


def above_zero(text: str) -> float:
    """A number above 0."""
    if re.fullmatch(r"\d+(?:\.\d*)?(?:e[+-]?\d+)?", text) is None or float(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return float(text)


SEARCH: Group = {
    "teacher": flag("The teacher, trained for the task: a folder or an id on the Hub."),
    "latency_ms": flag("Milliseconds of a sentence at most: the median at batch 1.", above_zero),
    "latency_share": flag("The same as a share of the teacher's, as it is in float32: 0.25.", above_zero),
    "size_mb": flag("Megabytes (10^6 bytes) of the weights on disk at most.", above_zero),
    "params": flag("Parameters at most.", whole),
    "device": flag("Where the student is to answer: cpu (the default) or cuda."),
    "runtimes": flag(f"What may run it: {', '.join(RUNTIMES)} (all that are here).", nargs="+", choices=RUNTIMES),
    "time_budget": flag("For trying recipes: 90s, 30min or 2h (1h). The other steps come on top.", seconds_in),
    "recipes": flag(f"The recipes to try: .yaml files, or names of shipped ones ({', '.join(RECIPES)}).", nargs="+"),
    "keep": flag("Candidates to try them on (2).", whole),
    "learning_rate_scales": flag(
        "Each recipe is tried with its rates times each of these (1 4).", above_zero, nargs="+"
    ),
}

BUDGET = ("latency_ms", "latency_share", "size_mb", "params")
SETTINGS = ("time_budget", "device", "keep", "learning_rate_scales", "runtimes")
NOT_TAKEN = {
    "resume_from_checkpoint": "with the same output_dir it goes on by itself",
    "push_to_hub": "publish the student when it is found",
    **dict.fromkeys(("do_train", "do_eval", "do_predict"), "it trains and evaluates"),
}
"""Flags of a run that a search has no use for, and why."""


def parser() -> HfArgumentParser:
    """The flags."""
    return make_parser("auto", DESCRIPTION, glue.FLAGS, {"search": SEARCH})


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status, 1 if the student is too slow."""
    words = sys.argv[1:] if argv is None else list(argv)
    flags = _parsed(words)
    configure_logging()
    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    recipes = _recipes(flags)
    budget = Budget(**{name: flags.own[name] for name in BUDGET if name in flags.own})
    given: dict[str, Any] = {name: flags.own[name] for name in SETTINGS if name in flags.own}
    plain: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    found = find(recipes, budget, flags.arguments["output_dir"], Settings(**plain))
    sys.stdout.write(
        f"\n{found.table}\nEverything is in {found.output_dir}; {found.output_dir / 'auto.json'} tells.\n"
    )
    return 0 if found.fits else 1


def _parsed(words: Sequence[str]) -> Flags:
    """Raises: `RecipeError` for flags that are unknown, missing, or of no use here."""
    flags = parse(words, parser())
    for name in NOT_TAKEN:
        if name in flags.arguments:
            raise RecipeError(f"command line: auto does not take --{name}: {NOT_TAKEN[name]}.")
    missing = [name for name in ("teacher",) if name not in flags.own]
    missing += [name for name in ("output_dir",) if name not in flags.arguments]
    if missing:
        raise RecipeError(f"command line: auto needs --{missing[0]}.")
    if not any(name in flags.own for name in BUDGET):
        raise RecipeError(f"command line: auto needs a budget: {', '.join(f'--{name}' for name in BUDGET)}.")
    if not any(name in flags.own for name in SOURCES):
        raise RecipeError(
            "command line: auto needs --task_name, or --train_file or --dataset_name with --text_columns."
        )
    return flags


def _recipes(flags: Flags) -> dict[str, Recipe]:
    """The recipes by the last part of their name, of the teacher and the data that the flags name.

    Raises: `RecipeError` for recipes that cannot be read, are of other data, or share a name.
    """
    places = flags.own.get("recipes", RECIPES)
    named = {PurePath(place).stem: place for place in places}
    if len(named) < len(places):
        raise RecipeError(
            f"command line: --recipes: two of {', '.join(map(str, places))} have one name; rename a file."
        )
    own = {name: value for name, value in flags.own.items() if name not in SEARCH}
    changed = Flags({**own, "teacher_name_or_path": flags.own["teacher"]}, flags.arguments)
    found = {}
    for name, place in named.items():
        recipe = Recipe.load(Path(place) if Path(place).suffix in (".yaml", ".yml") else place)
        with quiet():  # that the teacher is taken as trained: auto trains none
            found[name] = recipe_of(changed, glue.SCRIPT, recipe)[0]
    return found
