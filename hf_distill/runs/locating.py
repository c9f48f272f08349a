"""Where the models and files of a record are on this machine, and whether they are still the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hf_distill.errors import DataError
from hf_distill.hub.record import Origin, Record, sha256_of
from hf_distill.runs.origins import REVISION, SCRATCH, Place, places, value_at

FLAGS = {"teacher.model": "--teacher_name_or_path", "student.model": "--student_name_or_path"}


def located(
    record: Record, recipe: Mapping[str, Any], models: Mapping[str, str], data_dir: Path | None
) -> dict[str, Any]:
    """What must be changed in the recipe of a record, by dotted keys, so that it finds here what it names.

    What came from the Hub is taken at the commit of then. What came from a path is looked for in `data_dir`, first
    under the whole name of the record and then under its last part, and in the working directory; `models` are given
    in place of what the record names, by their keys in the recipe. Folders that a run fills itself are left to it.

    Raises: `DataError` that lists what is missing, and what has other sums than then.
    """
    changes: dict[str, Any] = {key: None for key in SCRATCH if value_at(recipe, key) is not None}
    problems: list[str] = []
    for place in places(recipe):
        origin, given = record.origins.get(place.key), models.get(place.key)
        if given is None and origin is not None and origin.id is not None:
            if place.revision is not None and origin.revision is not None:
                changes[place.revision] = origin.revision
            continue
        if given is None and origin is None and place.kind == "model":
            continue  # its name may be one of the Hub
        found = given or _found(place, data_dir)
        if found is None:
            problems += _missing(place, origin)
            continue
        changes[place.key] = found
        if place.revision is not None and value_at(recipe, place.revision) is not None:
            changes[place.revision] = None  # a folder has none
        problems += _other_sums(place, Path(found), origin)
    if problems:
        raise DataError("the record names what is not here:\n" + "\n".join(f"- {problem}" for problem in problems))
    return {**changes, **_pinned_data(record, recipe)}


def _found(place: Place, data_dir: Path | None) -> str | None:
    named = Path(place.name)
    if ".." in named.parts:  # a record may be anybody's, and leads nowhere else
        named = Path(named.name)
    candidates = [named]
    if data_dir is not None:
        itself = [data_dir] if place.kind == "folder" else []
        candidates = [data_dir / named, data_dir / named.name, *itself, named]
    exists = Path.is_file if place.kind == "file" else Path.is_dir
    return next((str(path) for path in candidates if exists(path)), None)


def _missing(place: Place, origin: Origin | None) -> Iterator[str]:
    sums = "" if origin is None or len(origin.files) != 1 else f" (SHA-256 {next(iter(origin.files.values()))})"
    flag = FLAGS.get(place.key)
    remedy = f"{flag} PATH, or " if flag is not None else ""
    yield f"{place.key}: the {place.kind} {place.name!r}{sums}; give {remedy}--data_dir with the folder that it is in"


def _other_sums(place: Place, path: Path, origin: Origin | None) -> Iterator[str]:
    """Files that are others than those of the record; of a model on the Hub, given in place of a folder, only its
    weights at the end can tell."""
    if origin is None or not path.exists():
        return
    for name, told in origin.files.items():
        file = path / name if path.is_dir() else path
        found = sha256_of(file) if file.is_file() else "missing"
        if found != told:
            yield f"{place.key}: {file} has changed: its SHA-256 is {found}, the record has {told}"


def _pinned_data(record: Record, recipe: Mapping[str, Any]) -> dict[str, str]:
    """The commits of the data of the Hub that a recipe names; a record may be anybody's, and changes nothing else."""
    commits: Mapping[str, str] = record.data.commits
    found: dict[str, str] = {}
    if value_at(recipe, "data.hub") is not None and record.data.revision is not None:
        found[REVISION] = record.data.revision
    for split in ("train", "validation"):
        for number, source in enumerate(value_at(recipe, f"data.text.{split}") or []):
            key = f"data.text.{split}.{number}.hub.revision"
            if source.get("hub") is not None and key in commits:
                found[key] = commits[key]
    return found
