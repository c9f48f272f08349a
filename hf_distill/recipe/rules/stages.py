"""Stages one after another: their names, terms and teachers, and what trains in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_distill.recipe.problems import Path, Problem
from hf_distill.recipe.rules.progressive import names
from hf_distill.recipe.rules.reading import comparing, items, mappings, section_of

PREVIOUS = "previous"
"""The stage before, as the teacher of a stage."""


def plain(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Stages and their terms are told apart by name; groups say what they are, and one weight alone is not learned."""
    stages = mappings(data.get("stages"))
    # A stage names a folder, and some file systems do not tell A from a.
    yield from _repeated([(("stages", i, "name"), name) for i, stage in stages for name in names(stage)], "stages")
    for i, stage in stages:
        for j, group in mappings(stage.get("train")):
            given = [key for key in ("parameters", "layers", "part") if group.get(key)]
            if len(given) != 1:
                text = f"give exactly one of parameters, layers and part; found {' and '.join(given) or 'none'}."
                yield Problem(("stages", i, "train", j), text)
        entries = mappings(stage.get("objectives"))
        named = [(("stages", i, "objectives", j, "name"), entry.get("name")) for j, entry in entries]
        yield from _repeated(named, "objectives of this stage")
        learned = [j for j, entry in entries if _is_learned(entry.get("weight"))]
        if len(learned) == 1:
            text = "is learned, and no other weight of the stage is: alone it would only rescale the learning rate."
            yield Problem(("stages", i, "objectives", learned[0], "weight"), text)


def _is_learned(weight: Any) -> bool:
    return weight == "learned" or (isinstance(weight, Mapping) and "learned" in weight)


def _repeated(named: Sequence[tuple[Path, Any]], what: str) -> Iterator[Problem]:
    count = Counter(name.lower() for _, name in named if isinstance(name, str))
    for path, name in named:
        if isinstance(name, str) and count[name.lower()] > 1:
            yield Problem(
                path,
                f"{count[name.lower()]} {what} are named {name!r}; give each its own name (capitals do not count).",
            )


def chains(data: Mapping[str, Any]) -> Iterator[Problem]:
    """The teacher of a stage is the student of an earlier one."""
    before: list[Any] = []
    for i, stage in mappings(data.get("stages")):
        here, teacher = ("stages", i, "teacher"), stage.get("teacher")
        if stage.get("name") == PREVIOUS:
            yield Problem(("stages", i, "name"), f"{PREVIOUS!r} means the stage before, as a teacher; choose another.")
        if teacher is not None and not before:
            yield Problem(here, "is the student of an earlier stage, and this is the first; leave it out.")
        elif isinstance(teacher, str) and teacher not in (PREVIOUS, *before):
            known = ", ".join(map(str, before))
            yield Problem(here, f"is the student of an earlier stage ({known}) or {PREVIOUS}; given {teacher!r}.")
        if isinstance(stage.get("progressive"), Mapping):
            for key in (key for key in ("student", "teacher") if stage.get(key) is not None):
                text = "does not go with progressive, which makes several stages of this; start with a stage before."
                yield Problem(("stages", i, key), text)
        before += names(stage)


def quantized(data: Mapping[str, Any]) -> Iterator[Problem]:
    """One kind of grid at a time; where its points are learned, nothing else trains."""
    for i, stage in mappings(data.get("stages")):
        if stage.get("quantize_points") is None:
            continue
        for key in ("quantize_uniform", "progressive"):
            if stage.get(key) is not None:
                yield Problem(("stages", i, key), "does not go with quantize_points; give the two a stage each.")
        if stage.get("train", "all") != "all":
            text = "does not go with quantize_points, of which the points alone train; leave it out."
            yield Problem(("stages", i, "train"), text)
        if data.get("control") is True and i == len(items(data.get("stages"))) - 1:
            text = "is trained as the last stage is, and learned points alone are no student; leave it out."
            yield Problem(("control",), text)


def adapters(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Adapters train in place of weights, and who learns from the student without them needs a stage that has some."""
    follows = section_of(data, "teacher").get("adapter_off") is not None
    for i, stage in mappings(data.get("stages")):
        if stage.get("lora") is None:
            if follows and stage.get("teacher") is None and comparing(stage):
                text = "is missing: the teacher (adapter_off) is the student without its adapters, and there are none."
                yield Problem(("stages", i, "lora"), text)
            continue
        given = [key for key in ("quantize_uniform", "quantize_points", "progressive") if stage.get(key) is not None]
        given += ["train"] if stage.get("train", "all") != "all" else []
        for key in given:
            text = "is about the weights, and those are at rest while adapters train (lora); leave one of them out."
            yield Problem(("stages", i, key), text)
