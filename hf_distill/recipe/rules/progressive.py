"""An entry of `stages` that stands for a stage a layer."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill import objectives
from hf_distill.recipe.problems import Path, Problem
from hf_distill.recipe.rules.reading import mappings, section_of

MAX_LAYERS = 100
"""The most stages that one entry of `stages` may stand for."""
MAX_NAME = 64
"""The longest name of a stage."""


def numbered(name: str, layers: int) -> list[str]:
    """The names of the stages that a progressive one stands for: `transfer-01`, `transfer-02` ..."""
    digits = max(2, len(str(layers)))
    return [f"{name}-{layer:0{digits}d}" for layer in range(1, layers + 1)]


def names(stage: Mapping[str, Any]) -> list[Any]:
    """The names of the stages that an entry of `stages` stands for."""
    name, layers = stage.get("name"), section_of(stage, "progressive").get("layers")
    if isinstance(name, str) and isinstance(layers, int) and 1 <= layers <= MAX_LAYERS:
        return numbered(name, layers)
    return [name]


def by_layer(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A stage for each layer says everything but the layers."""
    for i, stage in mappings(data.get("stages")):
        if not isinstance(stage.get("progressive"), Mapping):
            continue
        layers, theirs = (stage["progressive"].get(key) for key in ("layers", "teacher_layers"))
        if isinstance(layers, int) and isinstance(theirs, list) and len(theirs) != layers:
            text = f"names {len(theirs)} layers of the teacher for {layers} of the student; give one for each."
            yield Problem(("stages", i, "progressive", "teacher_layers"), text)
        if stage.get("train", "all") != "all":
            yield Problem(("stages", i, "train"), "follows from progressive, stage by stage; leave it out.")
        name, last = stage.get("name"), names(stage)[-1]
        if isinstance(name, str) and len(name) <= MAX_NAME < len(last):
            text = f"with the layer's number behind it {len(last)} characters are more than {MAX_NAME}; shorten it."
            yield Problem(("stages", i, "name"), text)
        yield from _layer_maps(("stages", i, "objectives"), mappings(stage.get("objectives")))


def _layer_maps(path: Path, entries: list[tuple[int, Mapping[str, Any]]]) -> Iterator[Problem]:
    """The objectives of a stage for each layer take a layer map, and it is not given."""
    for j, entry in entries:
        for name in entry:
            if name not in objectives.names():
                continue
            if "layer_map" not in inspect.signature(objectives.get(name)).parameters:
                text = "has no layer_map, so it cannot compare one layer at each stage; give it a stage of its own."
                yield Problem((*path, j, name), text)
            elif isinstance(entry[name], Mapping) and "layer_map" in entry[name]:
                text = "follows from progressive, stage by stage; leave it out."
                yield Problem((*path, j, name, "layer_map"), text)
