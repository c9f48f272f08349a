"""Models that are named, and students that are made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hf_distill.recipe.problems import Problem
from hf_distill.recipe.rules.reading import members, section_of, students

COMMIT = re.compile(r"[0-9a-f]{40}")
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
        elif section.get("trust_remote_code") is True and not COMMIT.fullmatch(str(section.get("revision"))):
            text = "runs code out of the model's repository; give the commit you have read as revision: <40 digits>."
            yield Problem((*path, "trust_remote_code"), text)


def made(data: Mapping[str, Any]) -> Iterator[Problem]:
    """What measures or corrects a cut student goes with a cut."""
    for path, student in students(data):
        section = section_of(student, "from_shape")
        if section.get("calibration_rows") is not None and section.get("initialisation") != "importance":
            text = "goes with initialisation: importance, and there is none; leave it out."
            yield Problem((*path, "from_shape", "calibration_rows"), text)
        is_cut = section.get("initialisation") == "importance" or student.get("from_layers") is not None
        if student.get("few_sample") is not None and not is_cut:
            text = "corrects what was cut: it goes with from_layers, or from_shape with initialisation: importance."
            yield Problem((*path, "few_sample"), text)
