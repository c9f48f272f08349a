"""The commit at which all that is done in a folder reads a data set of the Hub."""

from __future__ import annotations

import json
from pathlib import Path

from filelock import FileLock
from huggingface_hub.file_download import REGEX_COMMIT_HASH

from hf_distill.data.hub import load_splits
from hf_distill.errors import DistillationError
from hf_distill.recipe import Recipe
from hf_distill.recipe.sections.sources import HubData
from hf_distill.runs.folder import read_json, write_json
from hf_distill.runs.origins import REVISION

FILE_NAME = "commits.json"
"""Commits by id, configuration and revision, as recipes have them."""


def at_kept_commit(recipe: Recipe, folder: Path, *, look_up: bool = True) -> Recipe:
    """The recipe with the commit of its data set of the Hub that was looked up first in the folder, so that what is
    run later, or again, reads the same rows; processes that share the folder get the same one. Recipes with other
    data, and those whose commit is not known, stay as they are; so do those whose commit is not kept yet, without
    `look_up`.

    Raises: `DataError` for a data set that cannot be read; `DistillationError` for a damaged file.
    """
    hub = None if recipe.data is None else recipe.data.hub
    if hub is None or REGEX_COMMIT_HASH.fullmatch(hub.revision or ""):
        return recipe
    commit = _kept_commit(hub, folder, look_up)
    return recipe if commit is None else recipe.override({REVISION: commit})


def _kept_commit(hub: HubData, folder: Path, look_up: bool) -> str | None:
    path, name = folder / FILE_NAME, json.dumps([hub.id, hub.config, hub.revision])
    if not look_up:
        return _kept(path).get(name)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{FILE_NAME}.lock")):
        kept = _kept(path)
        if name not in kept:
            _, commit = load_splits(hub.id, (), config=hub.config, revision=hub.revision)
            if commit is None:
                return None
            kept[name] = commit
            write_json(path, kept)
        return kept[name]


def _kept(path: Path) -> dict[str, str]:
    found = read_json(path) or {}
    for name, commit in found.items():
        if not REGEX_COMMIT_HASH.fullmatch(str(commit)):
            raise DistillationError(f"{path}: {commit!r} of {name} is no commit; remove the file.")
    return found
