"""The kinds of teachers, what goes with each, and the terms and students that need one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_distill.recipe.problems import Problem
from hf_distill.recipe.rules.models import MADE
from hf_distill.recipe.rules.progressive import MAX_LAYERS
from hf_distill.recipe.rules.reading import comparing, mappings, section_of, students

TEACHERS = ("model", "package", "ensemble", "moving_average", "peers", "adapter_off", "cached")
"""The kinds of teachers."""
OF_STUDENTS = ("moving_average", "peers", "adapter_off")
"""Those that change with the student."""
WITHOUT_MODEL = (*OF_STUDENTS, "cached")
"""Those that no student is made from, and none is compared with at the end."""


def needed(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A student that is made, and a term that compares, need a teacher."""
    kind = next((key for key in WITHOUT_MODEL if section_of(data, "teacher").get(key) is not None), None)
    follows = kind is not None
    why = "the recipe's is made of the student; give a model" if follows else "the recipe has none; add teacher"
    why = "the recipe's is on the disk without its weights; give student.model" if kind == "cached" else why
    if data.get("teacher") is not None and not follows:
        return
    for path, student in students(data):
        for name, taken in MADE.items():
            if student.get(name) is not None:
                yield Problem((*path, name), f"takes the {taken} of a teacher, and {why}.")
    for i, stage in [] if follows else mappings(data.get("stages")):
        for j, name in comparing(stage) if stage.get("teacher") is None else []:
            text = "compares with a teacher, and the recipe has none; add teacher."
            yield Problem(("stages", i, "objectives", j, name), text)


def kinds(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What goes with some kinds of teachers alone."""
    section = section_of(data, "teacher")
    ensemble, members = section_of(section, "ensemble"), section_of(section, "ensemble", "members")
    if ensemble and section.get("fine_tune") is not None:
        text = "trains one teacher on the labels, and there are several; train each by a recipe of its own."
        yield Problem(("teacher", "fine_tune"), text)
    weights = ensemble.get("weights")
    if isinstance(weights, list) and len(weights) != len(members):
        text = f"are {len(weights)} for {len(members)} teachers; give one for each."
        yield Problem(("teacher", "ensemble", "weights"), text)
    elif isinstance(weights, list) and all(weight == 0 for weight in weights):
        yield Problem(("teacher", "ensemble", "weights"), "are all 0; at least one teacher must count.")
    if weights is not None and ensemble.get("routing") is not None:
        text = "gives each row to one teacher, and weights are given as well; leave one of them out."
        yield Problem(("teacher", "ensemble", "routing"), text)
    for kind in (kind for kind in OF_STUDENTS if section.get(kind) is not None):
        for key in (key for key in ("fine_tune", "cache", "dtype") if section.get(key) is not None):
            yield Problem(("teacher", key), f"does not go with {kind}, which changes with the student.")
    if section.get("peers") is not None:
        yield from _peers(data)
    for key in (key for key in ("fine_tune", "cache") if section.get("cached") and section.get(key) is not None):
        yield Problem(("teacher", key), "does not go with cached, which is written already and has no weights.")


def held(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A teacher that is loaded in few bits, or over devices, is one model, and no student is cut from it."""
    section = section_of(data, "teacher")
    for key in (key for key in ("quantization", "device_map") if section.get(key) is not None):
        if section.get("model") is None or section.get("fine_tune") is not None:
            yield Problem(("teacher", key), "is for one teacher that is loaded by name and not trained; leave it out.")
        for path, student in students(data):
            made = next((name for name in MADE if student.get(name) is not None), None)
            if made is not None:
                text = (
                    f"is cut from the teacher, whose weights are not whole in one place (teacher.{key}); name a model."
                )
                yield Problem((*path, made), text)


def _peers(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Peers train whole, on floats, and learn from the student of their own stage."""
    for i, stage in mappings(data.get("stages")):
        whole = ("progressive", "quantize_uniform", "quantize_points", "lora")
        given = [key for key in whole if stage.get(key) is not None]
        given += ["train"] if stage.get("train", "all") != "all" else []
        for key in given:
            text = "is about the student, and its peers (teacher.peers) train whole beside it; leave it out."
            yield Problem(("stages", i, key), text)


def on(data: Mapping[str, Any]) -> Iterator[Problem]:
    """A term is on one of several teachers, or of several peers."""
    members: Sequence[Any] = list(section_of(data, "teacher", "ensemble", "members"))
    if section_of(data, "teacher").get("peers") is not None:
        count = section_of(data, "teacher", "peers").get("count", 1)
        members = [f"peer_{n}" for n in range(1, count + 1)] if isinstance(count, int) and count <= MAX_LAYERS else []
    for i, stage in mappings(data.get("stages")):
        for j, entry in mappings(stage.get("objectives")):
            member, here = entry.get("on"), ("stages", i, "objectives", j, "on")
            if not isinstance(member, str):
                continue
            if not members or stage.get("teacher") is not None:
                text = "names one of several teachers (ensemble, peers), and there are not several; leave it out."
                yield Problem(here, text)
            elif member not in members:
                yield Problem(here, f"names one of the teachers {', '.join(map(str, members))}; given {member!r}.")
