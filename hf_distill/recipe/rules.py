"""What the parts of a recipe demand of each other.

The rules read plain data, so that they speak up also when something else is wrong; what has the wrong shape they pass
over, as the schema tells that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_distill import objectives
from hf_distill.recipe.problems import Path, Problem

COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHING = ("weight", "name")
"""The keys beside the objective's own in an entry of `objectives`."""


def broken(data: Mapping[str, Any]) -> list[Problem]:
    """The rules that the data breaks."""
    checks = (_alternatives, _task, _data, _models, _stages, _teacher)
    return [problem for check in checks for problem in check(data)]


def _section(data: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    value: Any = data
    for key in keys:
        value = value.get(key)
        if not isinstance(value, Mapping):
            return {}
    return value  # type: ignore[no-any-return]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _alternatives(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Of some keys exactly one is given."""
    for path, keys in (
        ((), ("task", "data")),
        (("data",), ("files", "package")),
        (("teacher",), ("model", "package")),
        (("student",), ("model", "from_layers")),
    ):
        section = _section(data, *path)
        if path and not isinstance(data.get(path[0]), Mapping):
            continue
        given = [key for key in keys if section.get(key) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "neither"
            yield Problem(path, f"give exactly one of {' and '.join(keys)}; found {found}.")


def _task(data: Mapping[str, Any]) -> Iterator[Problem]:
    if data.get("dataset_dir") is not None and data.get("data") is not None:
        yield Problem(("dataset_dir",), "holds copies of a GLUE task; with a data section give the files there.")


def _data(data: Mapping[str, Any]) -> Iterator[Problem]:
    section = _section(data, "data")
    columns = _list(section.get("text_columns"))
    if section.get("label_column") is not None and section["label_column"] in columns:
        yield Problem(("data", "label_column"), f"{section['label_column']!r} is a text column as well.")
    parts = [_section(section, "split").get(name, 0) for name in ("validation", "test")]
    if all(isinstance(part, int | float) for part in parts) and sum(parts) >= 1:
        yield Problem(
            ("data", "split"), f"takes {parts[0]:g} + {parts[1]:g} of the training data; nothing would be left."
        )


def _models(data: Mapping[str, Any]) -> Iterator[Problem]:
    """Code and revisions belong to a model that is named, and foreign code to one commit of it."""
    for role in ("teacher", "student"):
        section = _section(data, role)
        if section.get("model") is None:
            for key in ("revision", "trust_remote_code"):
                if section.get(key):
                    yield Problem((role, key), f"goes with model, and {role} has none.")
        elif section.get("trust_remote_code") is True and not COMMIT.fullmatch(str(section.get("revision"))):
            text = "runs code out of the model's repository; give the commit you have read as revision: <40 digits>."
            yield Problem((role, "trust_remote_code"), text)


def _stages(data: Mapping[str, Any]) -> Iterator[Problem]:
    stages = [(i, stage) for i, stage in enumerate(_list(data.get("stages"))) if isinstance(stage, Mapping)]
    # A stage names a folder, and some file systems do not tell A from a.
    yield from _repeated([(("stages", i, "name"), stage.get("name")) for i, stage in stages], "stages")
    for i, stage in stages:
        entries = [(j, entry) for j, entry in enumerate(_list(stage.get("objectives"))) if isinstance(entry, Mapping)]
        named = [(("stages", i, "objectives", j, "name"), entry.get("name")) for j, entry in entries]
        yield from _repeated(named, "objectives of this stage")


def _repeated(named: Sequence[tuple[Path, Any]], what: str) -> Iterator[Problem]:
    count = Counter(name.lower() for _, name in named if isinstance(name, str))
    for path, name in named:
        if isinstance(name, str) and count[name.lower()] > 1:
            yield Problem(
                path,
                f"{count[name.lower()]} {what} are named {name!r}; give each its own name (capitals do not count).",
            )


def _teacher(data: Mapping[str, Any]) -> Iterator[Problem]:
    if data.get("teacher") is not None:
        return
    if _section(data, "student").get("from_layers") is not None:
        yield Problem(
            ("student", "from_layers"), "takes the layers of a teacher, and the recipe has none; add teacher."
        )
    for i, stage in enumerate(_list(data.get("stages"))):
        for j, entry in enumerate(_list(stage.get("objectives")) if isinstance(stage, Mapping) else []):
            for name in entry if isinstance(entry, Mapping) else ():
                if name in objectives.names() and objectives.get(name).needs_teacher:
                    text = "compares with a teacher, and the recipe has none; add teacher."
                    yield Problem(("stages", i, "objectives", j, name), text)
