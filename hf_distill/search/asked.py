"""What a search is asked for, checked before anything is loaded, and the folder that belongs to it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hf_distill.errors import DistillationError, RecipeError
from hf_distill.hub.record import environment
from hf_distill.recipe import Recipe
from hf_distill.runs import commits
from hf_distill.runs.folder import differences, read_json, write_json
from hf_distill.search.budget import Budget
from hf_distill.search.forms import RUNTIMES

FILE_NAME, TRIALS = "asked.json", "trials"
SHARED = ("task", "data", "dataset_dir", "max_length", "max_samples", "teacher", "seed")
"""What all recipes of a search have in common."""


@dataclass(frozen=True)
class Settings:
    """How a search goes about it: seconds for trying recipes, the device that students are to answer on, how many
    candidates are tried, by what learning rates are multiplied, and what may run a student.

    Raises: `DistillationError` for a value that is none.
    """

    time_budget: float = 3600.0
    device: str = "cpu"
    keep: int = 2
    learning_rate_scales: tuple[float, ...] = (1.0, 4.0)
    runtimes: tuple[str, ...] = RUNTIMES

    def __post_init__(self) -> None:
        for name, value in {"time_budget": self.time_budget, "keep": self.keep}.items():
            if not math.isfinite(value) or value <= 0:
                raise DistillationError(f"search: {name} is {value!r}; it must be above 0.")
        scales = self.learning_rate_scales
        if not scales or len(set(scales)) < len(scales) or not all(math.isfinite(s) and s > 0 for s in scales):
            raise DistillationError(
                f"search: learning_rate_scales are {list(scales)}; they must be above 0, each once, one at least."
            )
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).strip().split("\n")[0]
            raise DistillationError(f"search: there is no device {self.device!r} here: {reason}") from error


def common(recipes: Mapping[str, Recipe]) -> Recipe:
    """What is the same in all recipes, as the first of them, with a student that is made of the teacher.

    Raises: `RecipeError` for a name that no folder can have, and where they differ in teacher or data, the data are no
    texts with labels, or the teacher is not one trained model.
    """
    if not recipes:
        raise RecipeError("search: there is no recipe to try.")
    for name in recipes:
        if not re.fullmatch(r"[\w.-]+", name):
            raise RecipeError(
                f"search: {name!r} cannot be the name of a folder; name recipes by letters, digits, . _ -"
            )
    plain = {name: {key: recipe.to_dict().get(key) for key in SHARED} for name, recipe in recipes.items()}
    first = next(iter(plain))
    for name, values in plain.items():
        differing = differences(plain[first], values)
        if differing:
            raise RecipeError(
                f"search: the recipes {first!r} and {name!r} must be of the same teacher and data; {differing[0]}."
            )
    recipe = recipes[first]
    teacher = recipe.teacher
    if teacher is None or teacher.fine_tune is not None or (teacher.model is None and teacher.package is None):
        raise RecipeError("search: the teacher must be one model that is trained already; give its folder or id.")
    if recipe.data is not None and recipe.data.text_columns is None:
        raise RecipeError(
            "search: students are looked for on labelled texts alone: a GLUE task, or data.text_columns."
        )
    return recipe.override({"student": {"from_layers": {"layers": 1}}})


def check_folder(
    folder: Path, recipes: Mapping[str, Recipe], budget: Budget, settings: Settings, sources: Mapping[str, Any]
) -> None:
    """Puts down what a folder was asked for, or compares it. Before the first trial only what costs depend on must be
    the same, so that a budget that nothing meets can be raised, the machine and its threads among it; after it the
    time as well, as trials are of so many rows as it affords. `sources` are sums of the files that were read.

    Raises: `DistillationError` for a folder of another search, that lists what differs, or with other things in it.
    """
    how = {**asdict(settings), "runtimes": list(settings.runtimes)}
    how["learning_rate_scales"] = list(settings.learning_rate_scales)
    plain = {name: recipe.to_dict() for name, recipe in recipes.items()}
    measured = {"of": {key: next(iter(plain.values())).get(key) for key in SHARED}, "sources": dict(sources)}
    hardware = environment().hardware
    machine = {name: getattr(hardware, name) for name in ("processor", "threads", "accelerators")}
    asked = {
        **measured,
        "device": how.pop("device"),
        "machine": machine,
        "tried": {"recipes": plain, "budget": budget.limits(), **how},
    }
    before = read_json(folder / FILE_NAME)
    if before is None:
        _refuse_foreign(folder)
    elif not (folder / TRIALS).exists():
        before["tried"] = asked["tried"]
    differing = [] if before is None else differences(before, asked)
    if differing:
        raise DistillationError(
            f"{folder} holds another search: {'; '.join(differing[:5])}. Choose another output_dir, or remove this "
            "one."
        )
    write_json(folder / FILE_NAME, asked)


def _refuse_foreign(folder: Path) -> None:
    found = (path.name for path in folder.iterdir() if not path.name.startswith("."))
    others = sorted(name for name in found if name != commits.FILE_NAME)
    if others:
        raise DistillationError(
            f"{folder} already holds {', '.join(others[:5])}, and not from a search. Choose another output_dir."
        )
