"""Knowledge distillation for Hugging Face Transformers text models.

The public names are those of `public.py`. They are imported when the first of them is asked for, so that what needs
no model, the command line's help for example, does not wait for torch.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_distill.objectives.catalogue import *  # noqa: F403
    from hf_distill.public import *  # noqa: F403
    from hf_distill.public import __all__ as __all__


class _Package(ModuleType):
    """This package: a name that is not there yet is a room, or stands in `public.py`."""

    def __getattr__(self, name: str) -> Any:
        place = f"{self.__name__}.{name}"
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name != "run" and importlib.util.find_spec(place) is not None:
            return importlib.import_module(place)
        found = getattr(importlib.import_module(f"{self.__name__}.public"), name)
        vars(self)[name] = found
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        # The import of the room `run` would cover the function that bears its name.
        if name == "run" and isinstance(value, ModuleType):
            value = value.run
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.__all__})


sys.modules[__name__].__class__ = _Package
