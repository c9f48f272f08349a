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

    def __getattr__(name: str) -> Any:
        """A name that is not there yet is a room, or stands in `public.py`."""
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        room = importlib.util.find_spec(f"{__name__}.{name}")
        if room is not None and room.origin is not None:  # else a folder that an older version left
            return importlib.import_module(f"{__name__}.{name}")
        found = getattr(importlib.import_module(f"{__name__}.public"), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
