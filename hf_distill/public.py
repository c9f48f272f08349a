"""The public names of `hf_distill`, which are imported when the first of them is asked for."""

import importlib
from typing import TYPE_CHECKING, Any

from hf_distill import objectives, students, teachers
from hf_distill.activations import Activations
from hf_distill.errors import (
    BrokenCheckpoint,
    CacheMismatch,
    DataError,
    DistillationError,
    HubError,
    IncompatiblePair,
    NonFiniteLoss,
    Preempted,
    RecipeError,
)
from hf_distill.layer_map import LayerMap
from hf_distill.objectives import Learned, Schedule, catalogue
from hf_distill.objectives.catalogue import *  # noqa: F403
from hf_distill.trainer import DistillationTrainer
from hf_distill.training.policy import OnPolicy
from hf_distill.version import __version__

if TYPE_CHECKING:
    from hf_distill.recipe import Recipe
    from hf_distill.runs import from_record, run
else:
    _ROOMS = {"Recipe": "recipe", "from_record": "runs", "run": "runs"}
    """Names that a trainer does not need, and where they are: slow to import, they wait until they are asked for."""

    def __getattr__(name: str) -> Any:
        if name not in _ROOMS:
            raise AttributeError(f"module 'hf_distill' has no attribute {name!r}")
        return getattr(importlib.import_module(f"hf_distill.{_ROOMS[name]}"), name)


__all__ = [
    "Activations",
    "BrokenCheckpoint",
    "CacheMismatch",
    "DataError",
    "DistillationError",
    "DistillationTrainer",
    "HubError",
    "IncompatiblePair",
    "LayerMap",
    "Learned",
    "NonFiniteLoss",
    "OnPolicy",
    "Preempted",
    "Recipe",
    "RecipeError",
    "Schedule",
    "__version__",
    "from_record",
    "objectives",
    "run",
    "students",
    "teachers",
]
__all__ += catalogue.__all__
