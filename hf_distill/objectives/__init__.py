"""The objectives, one file a method, and their registry: `names()`, `get(name)`, `make(name, settings)`.

A file is registered by lying here; its class becomes a public name by standing in `catalogue.py`.
"""

import importlib
import pkgutil

from hf_distill.objectives import catalogue
from hf_distill.objectives.base import Loss, Objective
from hf_distill.objectives.catalogue import *  # noqa: F403
from hf_distill.objectives.pair import Pair
from hf_distill.objectives.registry import get, make, names, register
from hf_distill.objectives.response.loss_function import LossFunction
from hf_distill.objectives.row_wise import RowWise
from hf_distill.objectives.terms import Term, Terms
from hf_distill.objectives.weights import Learned, Schedule

__all__ = [
    "Learned",
    "Loss",
    "LossFunction",
    "Objective",
    "Pair",
    "RowWise",
    "Schedule",
    "Term",
    "Terms",
    "get",
    "make",
    "names",
    "register",
]
__all__ += catalogue.__all__

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):  # noqa: F405
    importlib.import_module(_module.name)
