"""Files that a flag names, looked at before the work whose outcome they are to hold."""

from __future__ import annotations

import os
from pathlib import Path

from hf_distill.errors import RecipeError
from hf_distill.writing import write_whole


def check_place(path: Path, flag: str) -> None:
    """Raises: `RecipeError` where no file can be made: there is no folder for it, none that may be written into, or a
    folder of its name."""
    if not path.parent.is_dir():
        raise RecipeError(f"{flag} {path}: there is no folder {path.parent}; make it, or name another place.")
    if not os.access(path.parent, os.W_OK):
        raise RecipeError(f"{flag} {path}: the folder {path.parent} may not be written into; name another place.")
    if path.is_dir():
        raise RecipeError(f"{flag} {path} is a folder; name a file.")


def write_text(path: Path, text: str, flag: str) -> None:
    """Writes a file whole or not at all. Raises: `RecipeError` where the disk refuses."""
    try:
        write_whole(path, text.encode("utf-8"))
    except OSError as error:
        raise RecipeError(f"{flag} {path} cannot be written: {error.strerror or error}.") from error
