"""Knowledge distillation for Hugging Face Transformers text models.

The public names are those of `public.py`. They are imported when the first of them is asked for, so that what needs
no model, the command line's help for example, does not wait for torch.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_distill.objectives.catalogue import *  # noqa: F403
    from hf_distill.public import *  # noqa: F403
    from hf_distill.public import __all__ as __all__
else:  # type checkers would take every name that is looked up here
    _OF_RECIPES = {"Recipe": "recipe", "from_record": "runs", "run": "runs"}
    """The public names that a trainer does not need, and their rooms, which are slow to import."""

    def __getattr__(name: str) -> Any:
        """A name that is not there yet is a room, stands in `public.py`, or is one of `_OF_RECIPES`."""
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if importlib.util.find_spec(f"{__name__}.{name}") is not None:
            return importlib.import_module(f"{__name__}.{name}")
        found = getattr(importlib.import_module(f"{__name__}.{_OF_RECIPES.get(name, 'public')}"), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
