"""Finds the file of a recipe and reads it."""

from __future__ import annotations

import os
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from hf_distill.errors import RecipeError
from hf_distill.recipe import document
from hf_distill.suggestions import closest

SUFFIXES = (".yaml", ".yml")
NOT_RECIPES = ("accelerate",)
"""Folders of the shipped recipes whose YAML files are settings of launchers."""


def shipped() -> dict[str, Traversable]:
    """The recipes that come with the package, by name: `quickstart`, `glue/...`.

    In a wheel they lie in the package, in a source checkout beside it.
    """
    inside = files("hf_distill") / "recipes"
    folder = inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"
    found: dict[str, Traversable] = {}
    if folder.is_dir():
        _collect(folder, "", found)
    return dict(sorted(found.items()))


def _collect(folder: Traversable, prefix: str, found: dict[str, Traversable]) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            if prefix or entry.name not in NOT_RECIPES:
                _collect(entry, f"{prefix}{entry.name}/", found)
        elif entry.name.endswith(SUFFIXES):
            found[prefix + entry.name.rsplit(".", 1)[0]] = entry


def read(path_or_name: str | os.PathLike[str]) -> document.Document:
    """The document behind a path (a `Path`, or text that ends in .yaml or .yml) or the name of a shipped recipe.

    Raises: `RecipeError` for a file that is missing, too large or not text, and for an unknown name.
    """
    if isinstance(path_or_name, str) and not path_or_name.endswith(SUFFIXES):
        names = shipped()
        if path_or_name not in names:
            near = ", ".join(map(repr, closest(path_or_name, names)))
            raise RecipeError(
                f"unknown recipe {path_or_name!r}; {f'did you mean {near}? ' if near else ''}`hf-distill explain` "
                f"lists all {len(names)}, and the path of a recipe of your own ends in .yaml or .yml."
            )
        return _read_file(names[path_or_name], path_or_name)
    path = Path(path_or_name)
    if "\0" in str(path) or not path.is_file():
        raise RecipeError(
            f"{str(path)!r} is {'a folder' if path.is_dir() else 'not a file'}; give the path of a YAML file."
        )
    return _read_file(path, str(path))


def _read_file(file: Traversable, source: str) -> document.Document:
    try:
        with file.open("rb") as stream:
            content = stream.read(document.MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{source}: cannot be read: {error.strerror}.") from error
    if len(content) > document.MAX_BYTES:
        raise RecipeError(f"{source}: more than {document.MAX_BYTES} bytes; a recipe is smaller.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{source}: line {line}: not UTF-8 text (byte {content[error.start]:#04x}).") from error
    return document.parse(text, source)
