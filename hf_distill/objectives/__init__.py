"""The objectives, one file a method, and their registry: `names()`, `get(name)`, `make(name, settings)`."""

import importlib
import pkgutil

from hf_distill.objectives.base import Objective, RowWise, get, make, names, register
from hf_distill.objectives.feature.hidden_cosine import HiddenCosine
from hf_distill.objectives.feature.hidden_mse import HiddenMSE
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.response.labels import Labels
from hf_distill.objectives.response.soft_targets import SoftTargets
from hf_distill.objectives.terms import Term, Terms

__all__ = [
    "HiddenCosine",
    "HiddenMSE",
    "Labels",
    "Objective",
    "Pair",
    "RowWise",
    "SoftTargets",
    "Term",
    "Terms",
    "get",
    "make",
    "names",
    "register",
]

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)  # a file with a @register line is registered by lying here
