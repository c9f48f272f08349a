"""`hf-distill doctor`: whether two models fit, and what a step will cost, before any training."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from hf_distill.commands import reports_errors
from hf_distill.commands.console import quiet
from hf_distill.commands.flags import layers_in, names_in, whole
from hf_distill.commands.help import Parser
from hf_distill.commands.outputs import check_place, write_text
from hf_distill.commands.overrides import OF_HUB, source, with_teacher_as_named
from hf_distill.errors import RecipeError
from hf_distill.inspection.diagnosis import diagnose
from hf_distill.inspection.report import report
from hf_distill.inspection.starting import data_for, starting_recipe
from hf_distill.recipe import Recipe
from hf_distill.recipe.document import Dumper
from hf_distill.students.layers import ALL_PICKS

DESCRIPTION = """\
Looks at a teacher, a student and a recipe before any training: whether labels, vocabularies and tokenizers fit, which
layers learn from which, which objectives apply and why the others do not, how many parameters train, and what a step
costs on this machine in time and memory.

Give a teacher and a student, or a recipe, or a recipe and other models for it. Models are known by their
configurations, and no weights are read. The cost is measured with a few steps of models with random weights on
made-up rows.

The exit status is 0 where everything fits, 1 where something does not (all of it is listed), and 2 where a recipe or a
model cannot be read."""

EPILOG = """\
examples:
  hf-distill doctor --recipe glue/sst2
  hf-distill doctor --teacher TEACHER --student_layers 3
  hf-distill doctor --teacher TEACHER --student STUDENT --task_name sst2 --write start.yaml"""


VERBS = {"train": "train on", "validation": "validate on", "test": "test on"}
"""What rows are for, by their split."""

COLUMNS = ("text_columns", "label_column")
OF_ROWS = (*(f"{split}_file" for split in VERBS), "dataset_name", *OF_HUB)
"""Flags of where rows of one's own are."""


def parser() -> argparse.ArgumentParser:
    """The flags."""
    made = Parser("doctor", DESCRIPTION, usage="%(prog)s [flags]", epilog=EPILOG)
    models = made.add_argument_group("what is looked at")
    models.add_argument("--recipe", help="a .yaml file, or the name of a shipped recipe")
    models.add_argument("--teacher", "--teacher_name_or_path", help="a folder or an id on the Hub")
    models.add_argument(
        "--fine_tune_teacher", action="store_true", help="train the teacher that is named first, as the recipe says"
    )
    models.add_argument("--student", "--student_name_or_path", help="a folder or an id on the Hub")
    models.add_argument(
        "--student_layers", type=layers_in, metavar="3", help="a student of the teacher's layers: how many, or which"
    )
    models.add_argument("--student_pick", choices=ALL_PICKS, help="which layers a number stands for (default: spread)")
    data = made.add_argument_group("its data, for a starting recipe; they are not read")
    data.add_argument("--task_name", help="a GLUE task")
    data.add_argument("--dataset_dir", help="a folder with the task's files")
    for split in ("train", "validation", "test"):
        data.add_argument(f"--{split}_file", metavar="FILE", help=f"rows of your own to {VERBS[split]}")
    data.add_argument("--dataset_name", metavar="ID", help="a data set on the Hub")
    data.add_argument("--dataset_config_name", metavar="NAME", help="its configuration")
    data.add_argument("--dataset_revision", metavar="REVISION", help="its branch, tag or commit")
    data.add_argument("--text_columns", type=names_in, metavar="a,b", help="the column of the text, or two of a pair")
    data.add_argument("--label_column", metavar="NAME", help="the column of the label (default: label)")
    cost = made.add_argument_group("what it costs")
    cost.add_argument("--batch_size", type=whole, metavar="32", help="rows of a batch (default: the recipe's)")
    cost.add_argument("--length", type=whole, metavar="128", help="tokens of a row (default: as many as there may be)")
    cost.add_argument("--rows", type=whole, metavar="67349", help="training rows; tells what an epoch takes")
    cost.add_argument("--no_cost", action="store_true", help="do not measure any steps")
    made.add_argument("--write", type=Path, metavar="FILE", help="write the recipe that was looked at, to start from")
    return made


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line `argv`, by default that of the process; the exit status."""
    given = parser().parse_args(argv)
    with quiet():
        recipe, written = _recipe(given)
        if given.write is not None:
            _check_place(given)
        found = diagnose(recipe, batch=given.batch_size, length=given.length, measure=not given.no_cost)
    sys.stdout.write(report(found, given.rows) + "\n")
    if given.write is not None:
        write_text(given.write, written, "doctor: --write")
        sys.stdout.write(f"\nWrote {given.write}: train with `--recipe {given.write}`.\n")
    return 1 if found.problems else 0


def _recipe(given: argparse.Namespace) -> tuple[Recipe, str]:
    """What is looked at, and how it is written down.

    Raises: `RecipeError` for flags that say too little, or too much.
    """
    if given.student is not None and given.student_layers is not None:
        raise RecipeError("doctor: --student and --student_layers are both given; a student is loaded, or built.")
    if given.student_pick is not None and given.student_layers is None:
        raise RecipeError("doctor: --student_pick goes with --student_layers, and is given without.")
    student: dict[str, Any] | None = None
    if given.student is not None:
        student = {"model": given.student}
    elif given.student_layers is not None:
        pick = {} if given.student_pick is None else {"pick": given.student_pick}
        student = {"from_layers": {"layers": given.student_layers, **pick}}
    if given.recipe is not None:
        recipe = _changed(given, student)
        return recipe, recipe.to_yaml()
    if given.fine_tune_teacher:
        raise RecipeError("doctor: --fine_tune_teacher goes with --recipe, which says how.")
    if given.teacher is None or student is None:
        raise RecipeError(
            "doctor: give --recipe, or --teacher with --student or --student_layers; --help lists the flags."
        )
    made = starting_recipe(given.teacher, student, _data(given), given.batch_size)
    text = yaml.dump(made, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
    return Recipe.from_dict(made, "the starting recipe"), f"# A start, made by `hf-distill doctor`.\n{text}"


def _changed(given: argparse.Namespace, student: dict[str, Any] | None) -> Recipe:
    """The recipe that is named, with other models and another task where flags say so."""
    recipe = Recipe.load(given.recipe)
    changes: dict[str, Any] = {} if student is None else {"student": student}
    named = {"fine_tune_teacher": given.fine_tune_teacher}
    if given.teacher is not None:
        named["teacher_name_or_path"] = given.teacher
        changes |= {"teacher.model": given.teacher, "teacher.revision": None, "teacher.package": None}
    if given.task_name is not None:
        changes |= {"task": given.task_name, "data": None}
    if given.dataset_dir is not None:
        changes["dataset_dir"] = given.dataset_dir
    own = _own(given)
    if own:
        raise RecipeError(f"doctor: --{own[0]} goes with a starting recipe, and --recipe names its data itself.")
    return with_teacher_as_named(named, recipe).override(changes)


def _own(given: argparse.Namespace) -> list[str]:
    """The flags of rows of one's own that are given."""
    return [name for name in (*OF_ROWS, *COLUMNS) if getattr(given, name)]


def _data(given: argparse.Namespace) -> dict[str, Any]:
    """The data of a starting recipe, as keys of it.

    Raises: `RecipeError` for two kinds of data.
    """
    own = _own(given)
    if given.task_name is not None:
        if own:
            raise RecipeError(f"doctor: --task_name and --{own[0]} are both given; a recipe has one task.")
        place = {} if given.dataset_dir is None else {"dataset_dir": given.dataset_dir}
        return {"task": given.task_name, **place}
    told = {name: getattr(given, name) for name in own}
    columns = {name: told.pop(name) for name in COLUMNS if name in told}
    return {"data": data_for(given.teacher, _rows(told) if told else None, columns)}


def _rows(told: dict[str, Any]) -> dict[str, Any]:
    """Where the rows are, as keys of a recipe's data.

    Raises: `RecipeError` for two sources, and for flags of a source that is not named.
    """
    if "dataset_name" not in told and "train_file" not in told:
        raise RecipeError(f"doctor: --{next(iter(told))} is given, and neither --train_file nor --dataset_name.")
    return source(told)[1]


def _check_place(given: argparse.Namespace) -> None:
    """Raises: `RecipeError` where there is nothing to write, a file in the way, or no folder for it."""
    if given.write.exists():
        raise RecipeError(f"doctor: --write: {given.write} is there already; name another file.")
    if given.recipe is None and not any((given.task_name, given.train_file, given.dataset_name)):
        raise RecipeError(
            "doctor: --write needs the data of the recipe: give --task_name, --train_file or --dataset_name."
        )
    check_place(given.write, "doctor: --write")
