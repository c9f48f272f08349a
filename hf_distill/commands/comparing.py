"""From the flags of `compare` to its trials: each recipe with each seed, on the same data, teacher and start."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from hf_distill.commands.flags import Flags
from hf_distill.commands.overrides import Script, recipe_of
from hf_distill.errors import DistillationError, RecipeError
from hf_distill.evaluation.compare import REFUSED, Run
from hf_distill.hub.record import sha256_of, sha256_of_files
from hf_distill.recipe import Recipe
from hf_distill.runs.arguments import QUIET
from hf_distill.runs.commits import at_kept_commit
from hf_distill.runs.origins import MODEL_FILES, Place, places
from hf_distill.version import __version__

CONTROL, REFERENCE, TEACHER = "labels", "soft_targets", "teacher"
"""The names of the recipe without a teacher, of the one whose cost is the unit, and of the teacher itself."""

ALWAYS = {name: f"comparisons/{name}" for name in (CONTROL, REFERENCE)}

PICK = "spread"
"""Which layers a start is made of where only their number is given."""

OF_SPLITS = ("train*.*", "validation*.*", "test*.*")
"""The files of a folder of data, which may have others."""

Sums = Mapping[str, str]
"""SHA-256 of files by their names."""


@dataclass(frozen=True)
class Trial:
    """A recipe to be run with a seed, with all that flags change in it. Without `train` its student is scored as it
    is. `files` are the sums of what it reads, by the recipe's keys."""

    name: str
    seed: int
    recipe: Mapping[str, Any]
    train: bool = True
    files: Mapping[str, Sums] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Of the recipe, of the files it reads, and of the version that runs it."""
        return _digest([__version__, self.train, self.recipe, self.files])

    @property
    def key(self) -> tuple[str, int, str]:
        """That of its `Run`."""
        return self.name, self.seed, self.digest


class Files:
    """The sums of the files that recipes name, each read once. What lies on the Hub is told by the recipe."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Sums] = {}

    def of(self, recipe: Mapping[str, Any], start: Path) -> dict[str, Sums]:
        """By the keys of the recipe; those of the `start`, which may not be there yet, are told by its name."""
        return {place.key: self.sums(place) for place in places(recipe) if place.name != str(start)}

    def sums(self, place: Place) -> Sums:
        """Those of one place. Raises: `DistillationError` for a file that cannot be read."""
        known = (place.kind, place.name)
        if known not in self._known:
            self._known[known] = _sums(place)
        return self._known[known]


def at_one_commit(plan: Sequence[Trial | Run], folder: Path, *, look_up: bool) -> list[Trial | Run]:
    """The plan of a comparison in the folder, whose trials read data sets of the Hub at the commits of its first call;
    see `at_kept_commit`."""

    def pinned(trial: Trial) -> Trial:
        if not (trial.recipe.get("data") or {}).get("hub"):
            return trial
        recipe = at_kept_commit(Recipe.from_dict(trial.recipe), folder, look_up=look_up)
        return replace(trial, recipe=recipe.to_dict())

    return [pinned(each) if isinstance(each, Trial) else each for each in plan]


def start_of(folder: Path, own: Mapping[str, Any], files: Files) -> Path:
    """The folder of the student before training, for recipes that name one instead of making it of the teacher. It is
    named by what it is made of: the layers, and the teacher's files, or its name on the Hub."""
    layers, teacher = own["student_layers"], own["teacher_name_or_path"]
    chosen = "-".join(map(str, layers)) if isinstance(layers, list) else f"{layers}-{own.get('student_pick', PICK)}"
    sums = files.sums(Place("teacher.model", "model", teacher))
    return folder / f"start-{chosen}-{_digest(sums or teacher)}"


def planned(script: Script, flags: Flags, start: Path, files: Files) -> list[Trial | Run]:
    """The trials of a command line, the teacher first, then seed by seed; a refusal for each recipe that the flags
    cannot make a trial of. `start` is the folder of the student that those recipes take which name one.

    Raises: `RecipeError` for recipes that cannot be read, or share a name; `DistillationError` for files that cannot.
    """
    recipes = _recipes(flags.own["recipes"])
    teacher = _teacher(script, flags, recipes[CONTROL])
    found: list[Trial | Run] = [replace(teacher, files=files.of(teacher.recipe, start))]
    refused: set[str] = set()
    for seed in dict.fromkeys(flags.own["seeds"]):
        for name, recipe in recipes.items():
            if name in refused:
                continue
            try:
                plain = _changed(script, flags, recipe, start, seed).to_dict()
                found.append(Trial(name, seed, plain, files=files.of(plain, start)))
            except RecipeError as error:
                refused.add(name)
                found.append(Run(name=name, seed=seed, recipe="", outcome=REFUSED, message=str(error)))
    return found


def _recipes(given: Sequence[str]) -> dict[str, Recipe]:
    """The recipes by the last part of their name; the control and the reference first."""
    names = [PurePath(each).stem for each in given]
    twice = [name for name, number in Counter(names).items() if number > 1 or name == TEACHER]
    if twice:
        given_by = ", ".join(each for each, name in zip(given, names, strict=True) if name == twice[0])
        text = "stands for the teacher" if twice[0] == TEACHER else "is the name of several recipes"
        raise RecipeError(f"command line: --recipes: {twice[0]!r} {text} ({given_by}); rename the file.")
    places = {**ALWAYS, **dict(zip(names, given, strict=True))}
    return {name: Recipe.load(place) for name, place in places.items()}


def _sums(place: Place) -> Sums:
    """Those of the files of a place; none where there is no such folder or file. Raises: `DistillationError` for one
    that cannot be read."""
    path = Path(place.name)
    try:
        if path.is_dir():
            return sha256_of_files(path, MODEL_FILES if place.kind == "model" else OF_SPLITS)
        return {path.name: sha256_of(path)} if path.is_file() else {}
    except OSError as error:
        raise DistillationError(f"{place.key}: cannot read {error.filename}: {error.strerror}.") from error


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode("utf-8")).hexdigest()[:16]


def _teacher(script: Script, flags: Flags, control: Recipe) -> Trial:
    """The teacher, to be scored as it is."""
    alone = {"teacher": None, "student": {"model": flags.own["teacher_name_or_path"]}}
    recipe = _on_data(script, flags, control.override(alone)).to_dict()
    return Trial(TEACHER, flags.own["seeds"][0], recipe, train=False)


def _changed(script: Script, flags: Flags, recipe: Recipe, start: Path, seed: int) -> Recipe:
    changes = {**_teachers(recipe, flags.own), **_student(recipe, flags.own, start)}
    found = _on_data(script, flags, recipe.override({**changes, "control": False}))
    return found.override({"seed": seed, **dict(_seeds(recipe, seed))})


def _on_data(script: Script, flags: Flags, recipe: Recipe) -> Recipe:
    """The recipe on the data, and with the training arguments, that the flags name."""
    own = {name: value for name, value in flags.own.items() if name not in ("teacher_name_or_path", "student_layers")}
    own.pop("student_pick", None)
    return recipe_of(Flags(own, {**QUIET, **flags.arguments}), script, recipe)[0]


def _teachers(recipe: Recipe, own: Mapping[str, Any]) -> dict[str, Any]:
    """The given teacher, trained already, in place of the recipe's; of several the first, and the further ones after
    it. What is made of the student stays.

    Raises: `RecipeError` where there are fewer than the recipe's.
    """
    teacher = recipe.teacher
    if teacher is None or (teacher.ensemble is None and teacher.model is None and teacher.package is None):
        return {}
    given = [own["teacher_name_or_path"], *own.get("further_teachers", [])]
    if teacher.ensemble is None:
        return {"teacher": {**_without_source(teacher.model_dump(by_alias=True)), "model": given[0]}}
    members = list(teacher.ensemble.members)
    if len(given) < len(members):
        raise RecipeError(
            f"the recipe has {len(members)} teachers ({', '.join(members)}), and {len(given)} given; name the others "
            "by --further_teachers."
        )
    return {f"teacher.ensemble.members.{name}": {"model": place} for name, place in zip(members, given, strict=False)}


def _without_source(section: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in section.items() if key not in ("package", "revision", "fine_tune")}


def _student(recipe: Recipe, own: Mapping[str, Any], start: Path) -> dict[str, Any]:
    """Students of the same depth: layers of the teacher, or the folder with these in place of a model that is named.
    Students of a shape of their own stay."""
    if recipe.student.model is not None:
        return {"student": {"model": str(start)}}
    if recipe.student.from_layers is None:
        return {}
    pick = {"student.from_layers.pick": own["student_pick"]} if "student_pick" in own else {}
    return {"student.from_layers.layers": own["student_layers"], **pick}


def _seeds(recipe: Recipe, seed: int) -> Iterator[tuple[str, int]]:
    """Stages with a seed of their own keep the distance between it and that of the recipe."""
    for i, stage in enumerate(recipe.stages):
        given = stage.arguments.get("seed")
        if isinstance(given, int):
            yield f"stages.{i}.arguments.seed", given - recipe.seed + seed
