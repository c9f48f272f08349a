"""`distill_glue`: from flags to a recipe, and on to the student."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_distill.commands import reports_errors
from hf_distill.commands.console import command_line, configure_logging, show
from hf_distill.commands.flags import Flags, parse
from hf_distill.commands.overrides import recipe_of
from hf_distill.data import glue
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.run import Publication, RunResult, predict_diagnostics, run
from hf_distill.run.folder import RunFolder

DIAGNOSTICS = "ax"


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    flags = parse(words)
    configure_logging()
    _check(flags)
    if flags.own.get("task_name") == DIAGNOSTICS:
        show(_predict_diagnostics(flags))
        return 0
    kept = _kept_recipe(flags)
    recipe, name = recipe_of(flags, kept)
    steps = _steps(flags)
    result = run(
        recipe,
        _output_dir(flags, name),
        train=steps["train"],
        evaluate=steps["eval"],
        predict=steps["predict"],
        command=command_line(words),
        publication=_publication(flags),
    )
    show(result)
    return 0


def _check(flags: Flags) -> None:
    """Flags that go against each other, or against what a run does."""
    own, arguments = flags.own, flags.arguments
    if "task_name" in own and "train_file" in own:
        raise RecipeError("command line: --task_name and --train_file are both given; a run has one task.")
    if "task_name" in own:
        glue.task(own["task_name"])
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
    if arguments.get("hub_strategy", "end") != "end" or arguments.get("hub_always_push", False):
        raise RecipeError("command line: a student is published once, when it is finished; leave --hub_strategy out.")


def _steps(flags: Flags) -> dict[str, bool]:
    """What is done: what the flags say, or, where none says anything, training and evaluation."""
    given = {step: bool(flags.arguments.get(f"do_{step}", False)) for step in ("train", "eval", "predict")}
    return given if any(given.values()) else {"train": True, "eval": True, "predict": False}


def _output_dir(flags: Flags, name: str) -> str:
    return str(flags.arguments.get("output_dir") or Path("outputs", name))


def _kept_recipe(flags: Flags) -> Recipe | None:
    """The recipe of the run in output_dir, for a command that only evaluates or predicts."""
    if _steps(flags)["train"] or "recipe" in flags.own or "output_dir" not in flags.arguments:
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
    )


def _predict_diagnostics(flags: Flags) -> RunResult:
    """AX has a test alone: a student of MNLI predicts it, the one in output_dir or the one that is named."""
    if flags.arguments.get("do_train", False) or flags.arguments.get("do_eval", False):
        raise RecipeError("command line: ax has neither training nor validation rows; use --do_predict alone.")
    predicting = Flags({**flags.own, "task_name": "mnli"}, {**flags.arguments, "do_predict": True})
    recipe, _ = recipe_of(predicting, _kept_recipe(predicting))
    return predict_diagnostics(recipe, _output_dir(flags, DIAGNOSTICS), flags.own.get("dataset_dir"))
