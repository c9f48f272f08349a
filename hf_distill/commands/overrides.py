"""From flags to a recipe."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hf_distill.commands.flags import REPRODUCTION, Flags, Group
from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.recipe.problems import shown
from hf_distill.recipe.rules.data import KINDS
from hf_distill.recipe.rules.kept import REFERENCE
from hf_distill.recipe.rules.models import MADE
from hf_distill.recipe.sections.teacher import Writing
from hf_distill.tasks import CausalLM

logger = logging.getLogger(__name__)

Changes = dict[str, tuple[str, Any]]
"""Overrides by key: the flag they come from, and the value."""


@dataclass(frozen=True)
class Script:
    """What a `distill_…` script has of its own.

    `flags` are those of its data. `plain` is the recipe that flags alone stand for; data, teacher and student are
    always put in their place. `default` is the recipe of a command line that names neither recipe, data nor models, if
    there is one. `data_name` is what the flags name the data by, None if they name none; `data` are the changes that
    they ask for, to a recipe.
    """

    name: str
    description: str
    flags: Group
    plain: Mapping[str, Any]
    data_name: Callable[[Mapping[str, Any]], str | None]
    data: Callable[[Mapping[str, Any], Recipe], Changes]
    default: str | None = None


COMMAND_LINE = "command line"
"""Where a recipe comes from that flags alone make."""

HALF_AND_HALF = [
    {
        "name": "distil",
        "objectives": [{"soft_targets": {"temperature": 2.0}, "weight": 0.5}, {"labels": {}, "weight": 0.5}],
    }
]
"""The stages of a recipe from flags alone."""

SCRIPTS = {
    "text_columns": "glue",
    "question_answering": "qa",
    "token_classification": "ner",
    "translation": "translation",
    "chat": "lm",
    "speech": "speech",
    "embeddings": "embeddings",
    "text": "mlm",
}
"""Which script is for which kind of data, by the key of `data` that says the kind."""

MODELS = ("teacher_name_or_path", "student_name_or_path")
"""Flags that name models: what they are to be trained on is named as well."""

SOURCES = ("task_name", "train_file", "dataset_name")
"""Flags that say where the rows are."""

OF_FILES = {"validation_file": "data.files.validation", "test_file": "data.files.test"}
"""Flags that go with --train_file, and the recipe's keys for them."""

OF_HUB = {"dataset_config_name": "data.hub.config", "dataset_revision": "data.hub.revision"}
"""Flags that go with --dataset_name, and the recipe's keys for them."""

PLACES = (
    (OF_HUB, "--dataset_name, or with a recipe that names a data set of the Hub"),
    (OF_FILES, "--train_file, or with a recipe that names files"),
)
OF_EITHER = "--train_file or --dataset_name, or with a recipe that has such rows"
"""What flags about own data go with."""

RUN_LEVEL = frozenset({"output_dir", "do_train", "do_eval", "do_predict", "seed", "push_to_hub"})
"""Training arguments that belong to the run; those of the Hub do as well."""


def recipe_of(flags: Flags, script: Script, kept: Recipe | None = None) -> tuple[Recipe, str]:
    """The recipe that the flags make of the one they name, of `kept`, of the script's own, or of nothing; and its
    name.

    Raises: `RecipeError` that names the flags at fault.
    """
    _check_names(flags, script)
    of_record = [name for name in REPRODUCTION if name in flags.own]
    if of_record:
        raise RecipeError(
            f"command line: --{of_record[0]} goes with a record: distill_{script.name} --reproduce FOLDER_OR_REPO."
        )
    recipe, name = _base(flags, script, kept)
    recipe = with_teacher_as_named(flags.own, recipe)
    changes = _changes(flags, script, recipe)
    try:
        recipe = recipe.override({key: value for key, (_, value) in changes.items()})
    except RecipeError as error:
        raise RecipeError(_by_flags(str(error), {key: flag for key, (flag, _) in changes.items()})) from error
    _check_kind(recipe, script)
    return recipe, name


def _check_names(flags: Flags, script: Script) -> None:
    """Raises: `RecipeError` for the Trainer's --label_names where classes have names."""
    if "label_names" in flags.arguments and "class_names" in script.flags:
        raise RecipeError(
            "command line: --label_names is not taken: it is the Trainer's, for the columns of a batch that hold "
            "labels. The names of the classes are --class_names."
        )


def with_teacher_as_named(own: Mapping[str, Any], recipe: Recipe) -> Recipe:
    """The recipe without the training of its teacher, where a flag names another: that one is trained already.

    Raises: `RecipeError` where it is to be trained, and nothing says how.
    """
    has = recipe.teacher is not None and recipe.teacher.fine_tune is not None
    if own.get("fine_tune_teacher") and not has:
        raise RecipeError(
            "command line: --fine_tune_teacher is given, and the recipe does not say how (teacher.fine_tune)."
        )
    if not has or "teacher_name_or_path" not in own or own.get("fine_tune_teacher"):
        return recipe
    logger.info(
        "%s is taken as trained, and the training of the recipe's teacher (teacher.fine_tune) left out; "
        "--fine_tune_teacher trains it as the recipe says.",
        own["teacher_name_or_path"],
    )
    return recipe.override({"teacher.fine_tune": None})


def _check_kind(recipe: Recipe, script: Script) -> None:
    """Raises: `RecipeError` for data of another script."""
    kind = next(
        (kind for kind in KINDS if recipe.data is not None and getattr(recipe.data, kind) is not None), "text_columns"
    )
    text = None if recipe.data is None else recipe.data.text
    of_next_words = script.name == "lm" and text is not None and text.task == CausalLM.name
    if SCRIPTS[kind] != script.name and not of_next_words:
        raise RecipeError(
            f"command line: distill_{script.name} is not for the recipe's kind of data, {kind}; "
            f"run distill_{SCRIPTS[kind]} with it."
        )


def _base(flags: Flags, script: Script, kept: Recipe | None) -> tuple[Recipe, str]:
    own = flags.own
    if "recipe" in own:
        return Recipe.load(own["recipe"]), PurePath(own["recipe"]).stem
    if kept is not None:
        return kept, "run"
    name = script.data_name(own)
    if name is None and script.default is not None and not any(model in own for model in MODELS):
        return Recipe.load(script.default), script.default
    if name is None:
        sources = "".join(f"--{name}, " for name in SOURCES if name in script.flags)
        raise RecipeError(f"command line: there are no data; give {sources}or --recipe. --help lists the flags.")
    recipe = Recipe.from_dict(script.plain, COMMAND_LINE)
    trains = not any(flags.arguments.get(f"do_{step}") for step in ("eval", "predict")) or flags.arguments.get(
        "do_train"
    )
    if trains and "teacher_name_or_path" not in own:
        raise RecipeError("command line: there is no teacher; give --teacher_name_or_path, or a recipe (--recipe).")
    if "student_name_or_path" not in own and "student_layers" not in own and trains:
        raise RecipeError(
            "command line: there is no student; give --student_layers 3 to build one from the teacher, or "
            "--student_name_or_path."
        )
    return recipe, name


def _changes(flags: Flags, script: Script, recipe: Recipe) -> Changes:
    return {
        **script.data(flags.own, recipe),
        **_rows(flags.own),
        **_batches(flags.own, recipe),
        **_models(flags.own, recipe),
        **_losses(flags.own, recipe),
        **_arguments(flags.arguments, recipe),
    }


def _rows(own: Mapping[str, Any]) -> Changes:
    keys = {
        "max_seq_length": "max_length",
        "max_train_samples": "max_samples.train",
        "max_eval_samples": "max_samples.validation",
        "max_predict_samples": "max_samples.test",
    }
    changes = {key: (f"--{flag}", own[flag]) for flag, key in keys.items() if flag in own}
    return {**changes, **({"control": ("--control", True)} if own.get("control") else {})}


def _batches(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    if "tokens_per_batch" not in own:
        return {}
    return {
        f"{place}.tokens_per_batch": ("--tokens_per_batch", own["tokens_per_batch"]) for place in _trainings(recipe)
    }


def _trainings(recipe: Recipe) -> list[str]:
    """The keys of what is trained: the stages, and the teacher if it is."""
    places = [f"stages.{i}" for i in range(len(recipe.stages))]
    trains_teacher = recipe.teacher is not None and recipe.teacher.fine_tune is not None
    return [*places, *(["teacher.fine_tune"] if trains_teacher else [])]


def files(own: Mapping[str, Any]) -> dict[str, str]:
    """The files that the flags name, by split."""
    return {split: own[f"{split}_file"] for split in ("train", "validation", "test") if f"{split}_file" in own}


def on_own_data(own: Mapping[str, Any], keys: Mapping[str, str], has_data: bool) -> Changes:
    """Flags about own data that go on top of a recipe; `keys` are the recipe's, by flag.

    Raises: `RecipeError` for such a flag, unless the recipe has such data.
    """
    given = [flag for flag in keys if flag in own]
    if given and not has_data:
        place = next((place for flags, place in PLACES if given[0] in flags), OF_EITHER)
        raise RecipeError(f"command line: --{given[0]} goes with {place}.")
    return {keys[flag]: (f"--{flag}", own[flag]) for flag in given}


def refuse_beside(own: Mapping[str, Any], source: str, other: str, flags: Iterable[str]) -> None:
    """Raises: `RecipeError` for `flags` that go with the flag `other`, where `source` names the rows."""
    given = [flag for flag in flags if flag in own]
    if source in own and given:
        raise RecipeError(
            f"command line: --{given[0]} goes with --{other}, and the rows are those of --{source}; leave it out."
        )


def name_of_rows(own: Mapping[str, Any]) -> str | None:
    """What the flags name a data set of the Hub or files by, None if they name none."""
    if "dataset_name" in own:
        return PurePath(own["dataset_name"]).name
    return PurePath(own["train_file"]).name.partition(".")[0] if "train_file" in own else None


def on_targets(own: Mapping[str, Any], recipe: Recipe, settings: Mapping[str, str]) -> Changes:
    """What flags ask for about texts that a teacher writes, and which of them stages learn; `settings` are the keys of
    `teacher.generate`, by flag.

    Raises: `RecipeError` for a search and a drawing.
    """
    changes: Changes = {
        f"teacher.generate.{key}": (f"--{flag}", own[flag]) for flag, key in settings.items() if flag in own
    }
    if "generated_drawing" in own and "num_beams" in own:
        raise RecipeError(
            "command line: --num_beams and --generated_drawing are both given; texts are searched for, or drawn."
        )
    if "generated_drawing" in own:  # or those of the recipe's search would stand beside it
        changes["teacher.generate.beams"] = ("--generated_drawing", Writing.model_fields["beams"].default)
    if "targets" not in own:
        return changes
    writes = recipe.teacher is not None and recipe.teacher.generate is not None
    if writes and own["targets"] == REFERENCE and not changes:
        changes["teacher.generate"] = ("--targets", None)  # or it would write what nobody reads
    return changes | {f"stages.{i}.targets": ("--targets", own["targets"]) for i in range(len(recipe.stages))}


def on_policy(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    """What flags ask for about texts that the student writes, in every stage that compares it with a teacher.

    Raises: `RecipeError` where no stage does.
    """
    given = [name for name in ("student_share", "on_policy") if name in own]
    places = [
        f"stages.{i}.on_policy"
        for i, stage in enumerate(recipe.stages)
        if any(term.objective.needs_teacher for term in stage.terms())
    ]
    if not given:
        return {}
    _need(places, f"--{given[0]}", "a term that compares with a teacher")
    settings = {name: ("--on_policy", value) for name, value in own.get("on_policy", {}).items()}
    settings |= {"student_share": ("--student_share", own["student_share"])} if "student_share" in own else {}
    return {f"{place}.{name}": change for place in places for name, change in settings.items()}


def on_rows(own: Mapping[str, Any], recipe: Recipe, kind: str, settings: Mapping[str, str]) -> Changes:
    """What flags ask for about rows from the Hub or from files; `kind` is the section of `data` that says what they
    are, and `settings` its keys, by flag. The recipe's own settings of that kind stay where no flag says otherwise.

    Raises: `RecipeError` for two sources, and for flags that go with a source where there is none.
    """
    section = getattr(recipe.data, kind) if recipe.data is not None else None
    if "dataset_name" not in own and "train_file" not in own:
        has_files = recipe.data is not None and recipe.data.files is not None
        of_kind = {flag: f"data.{kind}.{key}" for flag, key in settings.items()}
        has_hub = recipe.data is not None and recipe.data.hub is not None
        return {
            **on_own_data(own, OF_FILES, has_files),
            **on_own_data(own, OF_HUB, has_hub),
            **on_own_data(own, of_kind, section is not None),
        }
    flag, rows = source(own)
    given = {key: own[flag] for flag, key in settings.items() if flag in own}
    before = {} if section is None else section.model_dump()
    data = {**rows, kind: {**before, **given}}
    return {"data": (flag, data), "task": (flag, None), "dataset_dir": (flag, None)}


def source(own: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The flag that names the rows, and where the recipe has them from.

    Raises: `RecipeError` for two sources, and for flags of another.
    """
    if "dataset_name" in own and "train_file" in own:
        raise RecipeError("command line: --dataset_name and --train_file are both given; a run has one data set.")
    refuse_beside(own, "dataset_name", "train_file", OF_FILES)
    refuse_beside(own, "train_file", "dataset_name", OF_HUB)
    cut = {"split": {"validation": 0.1}}
    if "dataset_name" in own:
        keys = {"dataset_name": "id", "dataset_config_name": "config", "dataset_revision": "revision"}
        return "--dataset_name", {"hub": {key: own[flag] for flag, key in keys.items() if flag in own}, **cut}
    split = {} if "validation_file" in own else cut
    return "--train_file", {"files": files(own), **split}


def _models(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    changes: Changes = {}
    if "teacher_name_or_path" in own:
        flag = "--teacher_name_or_path"
        changes |= {"teacher.model": (flag, own["teacher_name_or_path"]), "teacher.revision": (flag, None)}
        if recipe.teacher is not None and recipe.teacher.package is not None:
            changes["teacher.package"] = (flag, None)
    if "teacher_dtype" in own:
        if recipe.teacher is None:
            raise RecipeError("command line: --teacher_dtype is given, and the recipe has no teacher.")
        changes["teacher.dtype"] = ("--teacher_dtype", own["teacher_dtype"])
    changes |= _cache(own, recipe)
    if "student_name_or_path" in own:
        flag = "--student_name_or_path"
        changes |= {"student.model": (flag, own["student_name_or_path"]), "student.revision": (flag, None)}
        changes |= {f"student.{made}": (flag, None) for made in MADE}
    elif "student_layers" in own:
        flag = "--student_layers"
        changes |= {"student.model": (flag, None), "student.revision": (flag, None)}
        changes |= {f"student.{made}": (flag, None) for made in MADE if made != "from_layers"}
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


def _cache(own: Mapping[str, Any], recipe: Recipe) -> Changes:
    """The cache of the teacher: --cache_teacher makes one, the other flags go with it or with that of the recipe."""
    given = [name for name in ("cache_teacher", "cache_codec", "cache_settings") if name in own]
    if not given:
        return {}
    has = recipe.teacher is not None and recipe.teacher.cache is not None
    if recipe.teacher is None or not (has or "cache_teacher" in own):
        missing = "no teacher" if recipe.teacher is None else "no cache of its teacher; give --cache_teacher"
        raise RecipeError(f"command line: --{given[0]} is given, and the recipe has {missing}.")
    changes: Changes = {}
    if "cache_teacher" in own:
        section = {"folder": own["cache_teacher"]} if own["cache_teacher"] else {}
        before = recipe.teacher.cache.model_dump() if recipe.teacher.cache is not None else {}
        changes["teacher.cache"] = ("--cache_teacher", {**before, **section})
    if "cache_codec" in own:
        changes |= {"teacher.cache.codec": ("--cache_codec", own["cache_codec"])}
        changes |= {"teacher.cache.settings": ("--cache_codec", {})}
    if "cache_settings" in own:
        changes["teacher.cache.settings"] = ("--cache_settings", own["cache_settings"])
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
    places = [f"{place}.arguments" for place in _trainings(recipe)]
    for name, value in arguments.items():
        if name not in RUN_LEVEL and not name.startswith("hub_"):
            changes |= {f"{place}.{name}": (f"--{name}", value) for place in places}
    return changes


def _by_flags(message: str, flags: Mapping[str, str]) -> str:
    """The message with the flags that were typed in place of the keys they stand for. Flags that change a recipe are
    named once each, those that stand for all of it not at all."""
    typed = f", overridden by {', '.join(dict.fromkeys(flags.values()))}"
    message = message.replace(f", overridden by {', '.join(map(shown, flags))}", typed, 1)
    message = message.replace(f"{COMMAND_LINE}{typed}", COMMAND_LINE, 1)
    for key, flag in sorted(flags.items(), key=lambda item: -len(item[0])):
        message = message.replace(f"override {key!r}", flag).replace(repr(key), flag)
    return message
