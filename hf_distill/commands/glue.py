"""`distill_glue`: GLUE tasks, and texts of one's own with a class, several classes or a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import HfArgumentParser

from hf_distill.commands import reports_errors
from hf_distill.commands.console import show
from hf_distill.commands.flags import FILES, HUB, Flags, flag, names_in
from hf_distill.commands.overrides import (
    HALF_AND_HALF,
    OF_FILES,
    OF_HUB,
    SOURCES,
    Changes,
    Script,
    name_of_rows,
    on_own_data,
    recipe_of,
    source,
)
from hf_distill.commands.script import begin, distil, kept_recipe, output_dir, parser_of
from hf_distill.data import glue
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs import RunResult, predict_diagnostics

DIAGNOSTICS = "ax"

FLAGS = {
    "task_name": flag(f"A GLUE task: {', '.join(glue.TASKS)}."),
    "dataset_dir": flag(
        "A folder with the task's files, <split>.jsonl, .csv or .parquet, also .gz, instead of the Hub."
    ),
    **HUB,
    **FILES,
    "text_columns": flag("The column of the text, or the two of a pair: a,b.", names_in),
    "label_column": flag("The column of the label (default: label); lists hold several classes."),
    "class_names": flag("The labels in the order of their ids: negative,positive.", names_in),
    "regression": {
        "help": "The labels are scores. Without it they are where one has a fraction, or the teacher gives one score; "
        "other whole numbers are classes.",
        "action": "store_true",
    },
}

DESCRIPTION = """Distil a teacher into a smaller student, on a GLUE task or on texts of your own.

Without a recipe, data and models the recipe `quickstart` is run.

  hf-distill glue --recipe quickstart --output_dir students/quickstart
  hf-distill glue --task_name sst2 --teacher_name_or_path TEACHER \\
      --student_layers 3 --output_dir students/sst2
  hf-distill glue --dataset_name dair-ai/emotion --text_columns text \\
      --teacher_name_or_path TEACHER --student_layers 3 --output_dir students/mood
  hf-distill glue --train_file mine.csv --text_columns text --label_column class \\
      --teacher_name_or_path TEACHER --student_layers 3 --output_dir students/mine"""


def parser() -> HfArgumentParser:
    """The flags."""
    return parser_of(SCRIPT)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    words, flags = begin(SCRIPT, argv)
    if flags.own.get("task_name") == DIAGNOSTICS:
        show(_predict_diagnostics(flags))
        return 0
    return distil(SCRIPT, words, flags)


def _data_name(own: Mapping[str, Any]) -> str | None:
    return str(glue.task(own["task_name"]).name) if "task_name" in own else name_of_rows(own)


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    sources = [name for name in SOURCES if name in own]
    if len(sources) > 1:
        both = " and ".join(f"--{name}" for name in sources[:2])
        raise RecipeError(f"command line: {both} are both given; a run has one task.")
    if not sources:
        return {**_on_top(own, recipe), **_copies(own)}
    if sources == ["task_name"]:
        on_own_data(own, {**OF_ROWS, **OF_FILES, **OF_HUB}, has_data=False)
        return {"task": ("--task_name", own["task_name"]), "data": ("--task_name", None), **_copies(own)}
    flag, data = _own_data(own)
    return {"data": (flag, data), "task": (flag, None), "dataset_dir": (flag, None), **_copies(own)}


def _on_top(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    """What flags change of the recipe's own data."""
    data = recipe.data
    return {
        **on_own_data(own, OF_FILES, data is not None and data.files is not None),
        **on_own_data(own, OF_HUB, data is not None and data.hub is not None),
        **on_own_data(own, OF_ROWS, data is not None and data.text_columns is not None),
    }


def _copies(own: Mapping[str, Any]) -> Changes:
    return {"dataset_dir": ("--dataset_dir", own["dataset_dir"])} if "dataset_dir" in own else {}


OF_ROWS = {
    "text_columns": "data.text_columns",
    "label_column": "data.label_column",
    "class_names": "data.label_names",
    "regression": "data.regression",
}


def _own_data(own: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The flag that names the rows, and the recipe's section of them."""
    flag, rows = source(own)
    if "text_columns" not in own:
        raise RecipeError(
            f"command line: {flag} needs --text_columns: the column of the text, or the two of a pair (a,b)."
        )
    told = {key.partition(".")[2]: own[name] for name, key in OF_ROWS.items() if name in own}
    return flag, {**rows, "label_column": "label", **told}


def _predict_diagnostics(flags: Flags) -> RunResult:
    """AX has a test alone: a student of MNLI predicts it, the one in output_dir or the one that is named."""
    if flags.arguments.get("do_train", False) or flags.arguments.get("do_eval", False):
        raise RecipeError("command line: ax has neither training nor validation rows; use --do_predict alone.")
    predicting = Flags({**flags.own, "task_name": "mnli"}, {**flags.arguments, "do_predict": True})
    recipe, _ = recipe_of(predicting, SCRIPT, kept_recipe(predicting))
    return predict_diagnostics(recipe, output_dir(flags, DIAGNOSTICS), flags.own.get("dataset_dir"))


SCRIPT = Script(
    name="glue",
    description=DESCRIPTION,
    flags=FLAGS,
    plain={
        "schema": 1,
        "task": "sst2",
        "teacher": {"model": "teacher"},
        "student": {"from_layers": {"layers": 1}},
        "stages": HALF_AND_HALF,
    },
    data_name=_data_name,
    data=_data,
    default="quickstart",
)
