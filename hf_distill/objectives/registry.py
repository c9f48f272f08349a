"""All objectives by their names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from hf_distill.errors import DistillationError
from hf_distill.objectives.settings import nearest

if TYPE_CHECKING:
    from hf_distill.objectives.base import Objective

ObjectiveClass = TypeVar("ObjectiveClass", bound="type[Objective]")

_registry: dict[str, type[Objective]] = {}


def register(name: str) -> Callable[[ObjectiveClass], ObjectiveClass]:
    """Class decorator: enter an objective into the registry under the literature's name, in snake_case."""

    def enter(objective: ObjectiveClass) -> ObjectiveClass:
        if name in _registry or not name.isidentifier() or name != name.lower():
            raise DistillationError(f"objective name {name!r} is taken or not snake_case.")
        objective.name = name
        _registry[name] = objective
        return objective

    return enter


def names() -> list[str]:
    """The registered names, sorted."""
    return sorted(_registry)


def get(name: str) -> type[Objective]:
    """The class of a registered name; an unknown name is an error that lists the nearest."""
    if name not in _registry:
        raise DistillationError(
            f"unknown objective {name!r}{nearest(name, names())}; the objectives are {', '.join(names())}."
        )
    return _registry[name]


def make(name: str, settings: Mapping[str, Any]) -> Objective:
    """The objective of a name with its settings; an unknown setting is an error that names the nearest."""
    objective = get(name)
    known = list(inspect.signature(objective).parameters)
    for setting in settings:
        if setting not in known:
            listed = ", ".join(known) or "none"
            raise DistillationError(
                f"objective {name!r} has no setting {setting!r}{nearest(setting, known)}; its settings are {listed}."
            )
    return objective(**settings)
