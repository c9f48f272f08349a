"""`distill_glue`: GLUE tasks, and texts of one's own with a class or a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from transformers import HfArgumentParser

from hf_distill.commands import reports_errors
from hf_distill.commands.console import show
from hf_distill.commands.flags import FILES, Flags, flag, names_in
from hf_distill.commands.overrides import HALF_AND_HALF, Changes, Script, files, on_own_data, recipe_of
from hf_distill.commands.script import begin, distil, kept_recipe, output_dir, parser_of
from hf_distill.data import glue
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.run import RunResult, predict_diagnostics

DIAGNOSTICS = "ax"

FLAGS = {
    "task_name": flag(f"A GLUE task: {', '.join(glue.TASKS)}."),
    "dataset_dir": flag(
        "A folder with the task's files, <split>.jsonl, .csv or .parquet, also .gz, instead of the Hub."
    ),
    **FILES,
    "text_columns": flag("The column of the text, or the two of a pair: a,b.", names_in),
    "label_column": flag("The column of the label (default: label)."),
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
    if "task_name" in own:
        return str(glue.task(own["task_name"]).name)
    return PurePath(own["train_file"]).name.partition(".")[0] if "train_file" in own else None


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    if "task_name" in own and "train_file" in own:
        raise RecipeError("command line: --task_name and --train_file are both given; a run has one task.")
    changes: Changes = {}
    if "train_file" in own:
        changes |= {"data": ("--train_file", _own_data(own))}
        changes |= {"task": ("--train_file", None), "dataset_dir": ("--train_file", None)}
    else:
        has_files = recipe.data is not None and recipe.data.files is not None and "task_name" not in own
        changes |= on_own_data(own, KEYS, has_files)
    if "task_name" in own:
        changes |= {"task": ("--task_name", own["task_name"]), "data": ("--task_name", None)}
    if "dataset_dir" in own:
        changes |= {"dataset_dir": ("--dataset_dir", own["dataset_dir"])}
    return changes


KEYS = {
    "validation_file": "data.files.validation",
    "test_file": "data.files.test",
    "text_columns": "data.text_columns",
    "label_column": "data.label_column",
    "class_names": "data.label_names",
    "regression": "data.regression",
}


def _own_data(own: Mapping[str, Any]) -> dict[str, Any]:
    if "text_columns" not in own:
        raise RecipeError(
            "command line: --train_file needs --text_columns: the column of the text, or the two of a pair (a,b)."
        )
    data = {"files": files(own), "text_columns": own["text_columns"], "label_column": own.get("label_column", "label")}
    if "class_names" in own:
        data["label_names"] = own["class_names"]
    if "regression" in own:
        data["regression"] = own["regression"]
    if "validation_file" not in own:
        data["split"] = {"validation": 0.1}
    return data


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
