"""From flags to a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from hf_distill.commands.flags import Flags
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe

QUICKSTART = "quickstart"

PLAIN: dict[str, Any] = {
    "schema": 1,
    "task": "sst2",
    "teacher": {"model": "teacher"},
    "student": {"from_layers": {"layers": 1}},
    "stages": [
        {
            "name": "distil",
            "objectives": [{"soft_targets": {"temperature": 2.0}, "weight": 0.5}, {"labels": {}, "weight": 0.5}],
        }
    ],
}
"""What flags alone stand for; task, teacher and student are always put in their place."""

RUN_LEVEL = frozenset({"output_dir", "do_train", "do_eval", "do_predict", "seed", "push_to_hub"})
"""Training arguments that belong to the run; those of the Hub do as well."""


def recipe_of(flags: Flags, kept: Recipe | None = None) -> tuple[Recipe, str]:
    """The recipe that the flags make of the one they name, of `kept`, of the quick start, or of nothing; and its name.

    Raises: `RecipeError` that names the flags at fault.
    """
    recipe, name = _base(flags, kept)
    changes = _changes(flags, recipe)
    try:
        return recipe.override({key: value for key, (_, value) in changes.items()}), name
    except RecipeError as error:
        raise RecipeError(_by_flags(str(error), {key: flag for key, (flag, _) in changes.items()})) from error


Changes = dict[str, tuple[str, Any]]
"""Overrides by key: the flag they come from, and the value."""


def _base(flags: Flags, kept: Recipe | None) -> tuple[Recipe, str]:
    own = flags.own
    if "recipe" in own:
        return Recipe.load(own["recipe"]), PurePath(own["recipe"]).stem
    if kept is not None:
        return kept, "run"
    if "task_name" not in own and "train_file" not in own:
        return Recipe.load(QUICKSTART), QUICKSTART
    recipe = Recipe.from_dict(PLAIN, "command line")
    name = own.get("task_name") or PurePath(own["train_file"]).name.partition(".")[0]
    trains = not any(flags.arguments.get(f"do_{step}") for step in ("eval", "predict")) or flags.arguments.get(
        "do_train"
    )
    if trains and "teacher_name_or_path" not in own:
        raise RecipeError(
            "command line: there is no teacher; give --teacher_name_or_path, or a recipe (--recipe glue/sst2)."
        )
    if "student_name_or_path" not in own and "student_layers" not in own and trains:
        raise RecipeError(
            "command line: there is no student; give --student_layers 3 to build one from the teacher, or "
            "--student_name_or_path."
        )
    return recipe, name


def _changes(flags: Flags, recipe: Recipe) -> Changes:
    return {
        **_data(flags.own, recipe),
        **_models(flags.own, recipe),
        **_losses(flags.own, recipe),
        **_arguments(flags.arguments, recipe),
    }


def _data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    changes: Changes = {}
    if "train_file" in own:
        changes |= {"data": ("--train_file", _own_data(own))}
        changes |= {"task": ("--train_file", None), "dataset_dir": ("--train_file", None)}
    else:
        changes |= _more_data(own, recipe)
    if "task_name" in own:
        changes |= {"task": ("--task_name", own["task_name"]), "data": ("--task_name", None)}
    simple = {
        "dataset_dir": "dataset_dir",
        "max_seq_length": "max_length",
        "max_train_samples": "max_samples.train",
        "max_eval_samples": "max_samples.validation",
        "max_predict_samples": "max_samples.test",
    }
    return changes | {key: (f"--{flag}", own[flag]) for flag, key in simple.items() if flag in own}


def _own_data(own: Mapping[str, Any]) -> dict[str, Any]:
    if "text_columns" not in own:
        raise RecipeError(
            "command line: --train_file needs --text_columns: the column of the text, or the two of a pair (a,b)."
        )
    files = {split: own[f"{split}_file"] for split in ("train", "validation", "test") if f"{split}_file" in own}
    data = {"files": files, "text_columns": own["text_columns"], "label_column": own.get("label_column", "label")}
    if "class_names" in own:
        data["label_names"] = own["class_names"]
    if "validation" not in files:
        data["split"] = {"validation": 0.1}
    return data


def _more_data(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    """Flags about own files that go on top of a recipe with files."""
    keys = {
        "validation_file": "data.files.validation",
        "test_file": "data.files.test",
        "text_columns": "data.text_columns",
        "label_column": "data.label_column",
        "class_names": "data.label_names",
    }
    given = [flag for flag in keys if flag in own]
    has_files = recipe.data is not None and recipe.data.files is not None and "task_name" not in own
    if given and not has_files:
        raise RecipeError(f"command line: --{given[0]} goes with --train_file, or with a recipe that names files.")
    return {keys[flag]: (f"--{flag}", own[flag]) for flag in given}


def _models(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    changes: Changes = {}
    if "teacher_name_or_path" in own:
        flag = "--teacher_name_or_path"
        changes |= {"teacher.model": (flag, own["teacher_name_or_path"]), "teacher.revision": (flag, None)}
        if recipe.teacher is not None and recipe.teacher.package is not None:
            changes["teacher.package"] = (flag, None)
    if "student_name_or_path" in own:
        flag = "--student_name_or_path"
        changes |= {"student.model": (flag, own["student_name_or_path"]), "student.revision": (flag, None)}
        changes["student.from_layers"] = (flag, None)
    elif "student_layers" in own:
        flag = "--student_layers"
        changes |= {"student.model": (flag, None), "student.revision": (flag, None)}
        changes |= {
            "student.trust_remote_code": (flag, False),
            "student.from_layers.layers": (flag, own["student_layers"]),
        }
    if "student_pick" in own:
        changes["student.from_layers.pick"] = ("--student_pick", own["student_pick"])
    for role in ("teacher", "student"):
        if f"{role}_revision" in own:
            changes[f"{role}.revision"] = (f"--{role}_revision", own[f"{role}_revision"])
        if own.get("trust_remote_code") and _is_named(role, own, recipe):
            changes[f"{role}.trust_remote_code"] = ("--trust_remote_code", True)
    return changes


def _is_named(role: str, own: Mapping[str, Any], recipe: Recipe) -> bool:
    """Whether a model of this role is loaded by name, so that it can bring code."""
    if role == "student" and "student_layers" in own:
        return False
    section = recipe.teacher if role == "teacher" else recipe.student
    return f"{role}_name_or_path" in own or (section is not None and section.model is not None)


def _losses(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    changes: Changes = {}
    if "temperature" in own:
        places = [place for _, place in _terms(recipe, "soft_targets")]
        _need(places, "--temperature", "soft_targets")
        changes |= {f"{place}.soft_targets.temperature": ("--temperature", own["temperature"]) for place in places}
    if "alpha" in own:
        if not 0.0 <= own["alpha"] <= 1.0:
            raise RecipeError(f"command line: --alpha is {own['alpha']}; it must be from 0 to 1.")
        soft, hard = dict(_terms(recipe, "soft_targets")), dict(_terms(recipe, "labels"))
        both = [stage for stage in soft if stage in hard]
        _need(both, "--alpha", "both soft_targets and labels")
        changes |= {f"{soft[stage]}.weight": ("--alpha", own["alpha"]) for stage in both}
        changes |= {f"{hard[stage]}.weight": ("--alpha", 1.0 - own["alpha"]) for stage in both}
    return changes


def _terms(recipe: Recipe, objective: str) -> list[tuple[str, str]]:
    """The stages with a term of this objective, and the key of the term."""
    return [
        (stage.name, f"stages.{i}.objectives.{j}")
        for i, stage in enumerate(recipe.stages)
        for j, entry in enumerate(stage.objectives)
        if entry.objective == objective
    ]


def _need(found: list[str], flag: str, what: str) -> None:
    if not found:
        raise RecipeError(f"command line: {flag} is given, and no stage of the recipe has {what}.")


def _arguments(arguments: Mapping[str, Any], recipe: Recipe) -> Changes:
    changes: Changes = {"seed": ("--seed", arguments["seed"])} if "seed" in arguments else {}
    places = [f"stages.{i}.arguments" for i in range(len(recipe.stages))]
    if recipe.teacher is not None and recipe.teacher.fine_tune is not None:
        places.append("teacher.fine_tune.arguments")
    for name, value in arguments.items():
        if name not in RUN_LEVEL and not name.startswith("hub_"):
            changes |= {f"{place}.{name}": (f"--{name}", value) for place in places}
    return changes


def _by_flags(message: str, flags: Mapping[str, str]) -> str:
    """The message with the flags that were typed in place of the keys they stand for."""
    for key, flag in sorted(flags.items(), key=lambda item: -len(item[0])):
        message = message.replace(f"override {key!r}", flag).replace(repr(key), flag)
    return message
