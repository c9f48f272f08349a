"""What all `distill_…` scripts do: from flags to a recipe, and on to the student."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser
from transformers.trainer_utils import HubStrategy

from hf_distill.commands import Command, reports_errors
from hf_distill.commands.console import command_line, configure_logging, show
from hf_distill.commands.flags import CARD, REPRODUCTION, Flags, make_parser, parse
from hf_distill.commands.overrides import Script, recipe_of
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs import Publication, RunResult, from_record, run
from hf_distill.runs.folder import RunFolder
from hf_distill.suggestions import did_you_mean

FOR_A_RECORD = frozenset({*REPRODUCTION, *CARD, "teacher_name_or_path", "student_name_or_path", "trust_remote_code"})
"""Flags that say where things are, and change no record."""

OF_THE_RUN = frozenset({"output_dir", "push_to_hub"})
"""Training arguments that a record does not have; those of the Hub are further ones."""


def entry_points(script: Script) -> tuple[Callable[[], HfArgumentParser], Command]:
    """A script's `parser`, which makes its flags, and its `main`, which runs a command line (by default that of the
    process) and returns the exit status."""

    @reports_errors
    def main(argv: Sequence[str] | None = None) -> int:
        return distil(script, *begin(script, argv))

    return partial(parser_of, script), main


def distil(script: Script, words: Sequence[str], flags: Flags) -> int:
    """Does what a command line asks for, `words` with the `flags` that `begin` found in them; the exit status."""
    if "reproduce" in flags.own:
        show(_reproduced(flags, command_line(script.name, words)))
        return 0
    steps = steps_of(flags)
    recipe, name = recipe_of(flags, script, kept_recipe(flags))
    result = run(
        recipe,
        output_dir(flags, name),
        train=steps["train"],
        evaluate=steps["eval"],
        predict=steps["predict"],
        command=command_line(script.name, words),
        publication=_publication(flags),
        resume_despite=flags.own.get("resume_despite", ()),
    )
    show(result)
    return 0


def parser_of(script: Script) -> HfArgumentParser:
    """The flags of a script."""
    return make_parser(script.name, script.description, script.flags)


def begin(script: Script, argv: Sequence[str] | None) -> tuple[list[str], Flags]:
    """The words of the command line `argv`, by default that of the process, and the flags in them. Messages go to the
    terminal from here on.

    Raises: `RecipeError` for flags that are unknown, or go against each other or against what a run does.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    flags = parse(words, parser_of(script))
    configure_logging()
    _check(flags)
    return words, flags


def _check(flags: Flags) -> None:
    own, arguments = flags.own, flags.arguments
    if "student_name_or_path" in own and "student_layers" in own:
        raise RecipeError(
            "command line: --student_name_or_path and --student_layers are both given; a student is loaded, or built "
            "from the teacher."
        )
    if "resume_from_checkpoint" in arguments:
        raise RecipeError(
            "command line: --resume_from_checkpoint is not taken: a run goes on by itself from the last whole "
            "checkpoint in its output_dir."
        )
    stated = [name for name in CARD if name in own]
    if stated and not arguments.get("push_to_hub", False):
        raise RecipeError(
            f"command line: --{stated[0]} is for the card of a student that is published: give it with --push_to_hub, "
            "or to `hf-distill publish` when the run is finished."
        )
    if "reproduce" in own:
        _check_reproduction(flags)


def _check_reproduction(flags: Flags) -> None:
    """Raises: `RecipeError` for flags that would make another run of it."""
    others = [name for name in flags.own if name not in FOR_A_RECORD]
    others += [name for name in flags.arguments if name not in OF_THE_RUN and not name.startswith("hub_")]
    if others:
        raise RecipeError(
            f"command line: --{others[0]} changes what the record tells; leave it out, or run the record's recipe as "
            "one of your own (--recipe)."
        )


def _reproduced(flags: Flags, command: Sequence[str]) -> RunResult:
    own = flags.own
    source = own["reproduce"]
    return from_record(
        source,
        output_dir(flags, f"{Path(source.partition('@')[0]).resolve().name}-again"),
        teacher=own.get("teacher_name_or_path"),
        student=own.get("student_name_or_path"),
        data_dir=own.get("data_dir"),
        trust_remote_code=own.get("trust_remote_code", False),
        command=command,
        publication=_publication(flags),
    )


def steps_of(flags: Flags) -> dict[str, bool]:
    """What is done: what the flags say, or, where none says anything, training and evaluation."""
    given = {step: bool(flags.arguments.get(f"do_{step}", False)) for step in ("train", "eval", "predict")}
    return given if any(given.values()) else {"train": True, "eval": True, "predict": False}


def output_dir(flags: Flags, name: str) -> str:
    """Where the run works: what the flags say, or a folder named after the recipe."""
    return str(flags.arguments.get("output_dir") or Path("outputs", name))


def kept_recipe(flags: Flags) -> Recipe | None:
    """The recipe of the run in output_dir, for a command that only evaluates or predicts."""
    if steps_of(flags)["train"] or "recipe" in flags.own or "output_dir" not in flags.arguments:
        return None
    return RunFolder(flags.arguments["output_dir"]).recipe()


def _publication(flags: Flags) -> Publication | None:
    arguments: Mapping[str, Any] = flags.arguments
    if not arguments.get("push_to_hub", False):
        return None
    if not arguments.get("hub_model_id"):
        raise RecipeError("command line: --push_to_hub needs a name: --hub_model_id owner/name.")
    private = arguments.get("hub_private_repo")
    return Publication(
        repo_id=arguments["hub_model_id"],
        private=True if private is None else private,
        revision=arguments.get("hub_revision"),
        strategy=_strategy(arguments.get("hub_strategy", HubStrategy.END)),
        **{name: flags.own[name] for name in CARD if name in flags.own},
    )


def _strategy(name: str) -> str:
    known = [strategy.value for strategy in HubStrategy]
    if name not in known:
        hint = did_you_mean(name, known, "; ") or "."
        raise RecipeError(f"command line: --hub_strategy is {name!r}; it may be {', '.join(known)}{hint}")
    return str(HubStrategy(name).value)
