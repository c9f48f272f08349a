"""Models that are named, and students that are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub.file_download import REGEX_COMMIT_HASH

from hf_distill.recipe.problems import Path, Problem
from hf_distill.recipe.rules.reading import members, section_of, students

MEASURED = ("importance", "loss_rise")
"""Picks that are measured on training rows."""

OF_IMPORTANCE = ("calibration_rows", "contiguous", "ranking", "steps")
"""Settings of `from_shape` that say how importance is measured, or what for."""

MADE = {
    "from_layers": "layers",
    "distilbert": "layers",
    "from_shape": "class and the vocabulary",
    "mobilebert": "vocabulary and the labels",
    "ib_bert": "vocabulary and the labels",
    "grow_labels": "weights and the labels",
}
"""The ways to make a student, and what of a teacher it takes."""


def named(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Code and revisions belong to a model that is named, and foreign code to one commit of it."""
    teacher = (("teacher",), section_of(data, "teacher"))
    for path, section in (teacher, *members(data), *students(data)):
        role = path[-1]
        if section.get("model") is None:
            for key in ("revision", "trust_remote_code"):
                if section.get(key):
                    yield Problem((*path, key), f"goes with model, and {role} has none.")
        elif section.get("trust_remote_code") is True and not REGEX_COMMIT_HASH.fullmatch(
            str(section.get("revision"))
        ):
            text = "runs code out of the model's repository; give the commit you have read as revision: <40 digits>."
            yield Problem((*path, "trust_remote_code"), text)


def _picked(path: Path, student: Mapping[str, Any]) -> Iterator[Problem]:
    """Layers that are measured are a number of them."""
    for maker in ("from_layers", "from_shape"):
        section = section_of(student, maker)
        if section.get("pick") in MEASURED:
            if isinstance(section.get("layers"), list):
                text = f"is {section['pick']}, and layers are given one by one; give their number, or leave pick out."
                yield Problem((*path, maker, "pick"), text)
            continue
        keys = ("contiguous", "calibration_rows") if maker == "from_layers" else ("contiguous",)
        for key in (key for key in keys if section.get(key)):
            text = f"goes with a pick that is measured ({' or '.join(MEASURED)}), and there is none; leave it out."
            yield Problem((*path, maker, key), text)


def made(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What measures or corrects a cut student goes with a cut."""
    for path, student in students(data):
        section = section_of(student, "from_shape")
        if section.get("initialisation") != "importance":
            for key in (key for key in OF_IMPORTANCE if section.get(key)):
                text = "goes with initialisation: importance, and there is none; leave it out."
                yield Problem((*path, "from_shape", key), text)
            if section.get("pick") in MEASURED:
                text = f"is {section['pick']}, which goes with initialisation: importance, and there is none."
                yield Problem((*path, "from_shape", "pick"), text)
        if section.get("ranking") != "activations":
            for key in (key for key in ("over_texts", "over_tokens") if section.get(key) is not None):
                yield Problem((*path, "from_shape", key), "goes with ranking: activations, and there is none.")
        yield from _picked(path, student)
        is_cut = section.get("initialisation") == "importance" or student.get("from_layers") is not None
        if student.get("few_sample") is not None and not is_cut:
            text = "corrects what was cut: it goes with from_layers, or from_shape with initialisation: importance."
            yield Problem((*path, "few_sample"), text)
