"""What a recipe names outside of itself, models and files, and how a record tells of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import try_to_load_from_cache

from hf_distill.hub.folder import OF_A_PROCESSOR, OF_A_TOKENIZER, OF_SENTENCES
from hf_distill.hub.record import WEIGHT_FILES, Origin, is_hub_id, sha256_of, sha256_of_files
from hf_distill.recipe import Recipe

MODEL_FILES = (*WEIGHT_FILES, "generation_config.json", *OF_A_TOKENIZER, *OF_A_PROCESSOR, *OF_SENTENCES)
"""What a model in a folder is known by: its weights, how it reads and writes, and how its vectors are made."""

SCRATCH = ("teacher.cache.folder", "teacher.generate.folder", "data.text.cache_dir")
"""Keys of folders that a run fills itself."""


REVISION = "data.hub.revision"
"""The key of a recipe that says at which commit a data set of the Hub is read."""


class Place(NamedTuple):
    """A name in a recipe: its dotted key, what it names, the name, and the key of its revision if it may have one."""

    key: str
    kind: Literal["model", "file", "folder"]
    name: str
    revision: str | None = None


def places(recipe: Mapping[str, Any]) -> Iterator[Place]:
    """All names of models, files and folders in the plain values of a recipe; those of packages, and of data sets of
    the Hub, are told apart from local ones by the recipe itself, and left out."""
    for key in _model_keys(recipe):
        name = value_at(recipe, key)
        if isinstance(name, str):
            yield Place(key, "model", name, f"{key.rpartition('.')[0]}.revision")
    for key in _file_keys(recipe):
        name = value_at(recipe, key)
        if isinstance(name, str):
            yield Place(key, "file", name)
    if recipe.get("dataset_dir") is not None:
        yield Place("dataset_dir", "folder", str(recipe["dataset_dir"]))


def _model_keys(recipe: Mapping[str, Any]) -> Iterator[str]:
    yield "teacher.model"
    members = "teacher.ensemble.members"
    yield from (f"{members}.{name}.model" for name in value_at(recipe, members) or {})
    yield "student.model"
    yield from (f"stages.{i}.student.model" for i in range(len(recipe["stages"])))
    yield "augmentation.masked_lm"


def _file_keys(recipe: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"data.files.{split}" for split in ("train", "validation", "test"))
    yield "data.exemplars"
    yield "data.chat.template"
    for split in ("train", "validation"):
        for i, source in enumerate(value_at(recipe, f"data.text.{split}") or []):
            yield from (f"data.text.{split}.{i}.files.{j}" for j in range(len(source.get("files") or [])))
    yield "data.text.masking.counts"
    yield "augmentation.word_vectors"


def value_at(recipe: Mapping[str, Any], key: str) -> Any:
    """What a dotted key leads to, None where it leads nowhere."""
    found: Any = recipe
    for part in key.split("."):
        if isinstance(found, list) and part.isdigit():
            found = found[int(part)]
        else:
            found = found.get(part) if isinstance(found, Mapping) else None
    return found


def origins_of(recipe: Recipe) -> dict[str, Origin]:
    """What the models and files of a recipe are, by their keys; a folder of data is told by the sums of its splits
    elsewhere in the record."""
    values = recipe.to_dict()
    named = [place for place in places(values) if place.kind != "folder"]
    return {place.key: _origin(place, value_at(values, place.revision or "")) for place in named}


def _origin(place: Place, revision: str | None) -> Origin:
    path = Path(place.name)
    if path.is_dir():
        return Origin(files=sha256_of_files(path, MODEL_FILES))
    if path.is_file():
        return Origin(files={path.name: sha256_of(path)})
    if place.kind == "model" and is_hub_id(place.name):
        return Origin(id=place.name, revision=_commit(place.name, revision))
    return Origin()


def _commit(repo_id: str, revision: str | None) -> str | None:
    """The commit of a repository that was loaded here, by where it lies in the cache."""
    found = try_to_load_from_cache(repo_id, "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None
