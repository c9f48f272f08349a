"""How stored cases are set up: `BUILDERS` of a module map a method to what binds one of its cases, `VALUES` to what
computes the stored values.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

BUILDERS: dict[str, Callable[..., Any]] = {}
VALUES: dict[str, Callable[..., Any]] = {}
for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    _found = importlib.import_module(_module.name)
    BUILDERS |= getattr(_found, "BUILDERS", {})
    VALUES |= getattr(_found, "VALUES", {})
