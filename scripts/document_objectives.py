"""Writes the table of objectives into docs/objectives.md, and the review's references into docs/methods.md, from the
registry and docs/review.yaml; `--check` only says whether they are up to date."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from hf_distill import objectives
from hf_distill.objectives import Objective

DOCS = Path(__file__).parents[1] / "docs"
OBJECTIVES, REVIEW, METHODS = DOCS / "objectives.md", DOCS / "review.yaml", DOCS / "methods.md"
BEGIN, END = "<!-- objectives: begin -->", "<!-- objectives: end -->"

KINDS = {
    "cs_kd": "response",
    "ddgsd": "response, feature",
    "deep_mutual_learning": "response",
    "knowledge_flow": "feature, response",
    "okddip": "response",
}
"""What the objectives hand on whose folder says when they learn it (`online`, `self_distillation`)."""

MODES = {
    "ban_cwtm": "self, generation by generation",
    "delta": "offline, or self (the student's own start)",
    "dkpp": "self, generation by generation",
    "knowledge_flow": "offline, its transforms online",
    "holistic_kd": "offline, its discriminator online",
    "labels": "none: no distillation",
    "learning_without_forgetting": "offline; self where the teacher is the model before",
    "next_sentence": "none: no distillation",
    "rkd_angle": "offline, or self",
    "rkd_distance": "offline, or self",
    "soft_targets": "offline; self where the teacher is an earlier student or a moving average",
    "tf_kd_reg": "self, a teacher made by hand",
    "voted_triplets": "offline, several teachers",
}
"""When the teacher learns, where the folder does not say it."""

HEAD = """# Methods

Where the methods of the literature that was surveyed stand in the toolkit: what of a method carries over to
transformers on text, and why the rest does not. What the objectives read and count is in
[objectives](objectives.md); the recipes are in [recipes](recipes.md). This page is made of `docs/review.yaml` by
`scripts/document_objectives.py`.
"""


def table() -> str:
    """One row an objective, by what it hands on and when it is learned: response, feature or relation; offline, online
    or self (the taxonomy of Gou et al., 2021, arXiv:2006.05525)."""
    every = {name: objectives.get(name) for name in objectives.names()}
    rows = sorted((kind(objective), name, objective) for name, objective in every.items())
    lines = ["| name | kind | mode | what it is | paper | reads | counts | settings |", "| --- |" + " --- |" * 7]
    for knowledge, name, objective in rows:
        settings = ", ".join(f"`{parameter}`" for parameter in inspect.signature(objective).parameters)
        told = (summary(objective), paper(objective), said(objective, "Reads"), said(objective, "Counts"))
        lines.append(f"| {' | '.join((f'`{name}`', knowledge, mode(objective), *told, settings))} |")
    return "\n".join(lines)


def kind(objective: type[Objective]) -> str:
    """What is handed on: a response, a feature, a relation."""
    return KINDS[objective.name] if room(objective) in ("online", "self_distillation") else room(objective)


def mode(objective: type[Objective]) -> str:
    """When the teacher learns: before (offline), with the student (online), or as the student (self)."""
    by_room = {"online": "online", "self_distillation": "self"}
    return MODES.get(objective.name, by_room.get(room(objective), "offline"))


def room(objective: type[Objective]) -> str:
    return objective.__module__.split(".")[-2]


def summary(objective: type[Objective]) -> str:
    """The first sentence of its documentation, without the paper."""
    first = cell(re.split(r"\n\s*\n", inspect.getdoc(objective) or "")[0])
    return re.sub(r" \([^()]*\b\d{4}\b[^()]*\)", "", first)


def said(objective: type[Objective], word: str) -> str:
    """What its documentation says after `Reads:` or `Counts:`, up to the first full stop outside of brackets."""
    inside = r"(?:\([^()]*\)|[^().]|\.(?!\s|$))*"
    found = re.search(rf"\b{word}:\s+({inside})", inspect.getdoc(objective) or "")
    return "" if found is None else cell(found[1])


def paper(objective: type[Objective]) -> str:
    """Authors and year of its citation, with a link to it."""
    entry = dict(re.findall(r"(\w+) = \{(.*?)\}(?=, \w+ =|,? \}$)", " ".join(objective.citation.split())))
    if not entry:
        return ""
    surnames = [person.partition(",")[0] for person in entry["author"].split(" and ")]
    who = " & ".join(surnames) if len(surnames) < 3 else f"{surnames[0]} et al."
    link = f"https://arxiv.org/abs/{entry['eprint']}" if "eprint" in entry else entry.get("url", "")
    return f"[{who}, {entry['year']}]({link})" if link else f"{who}, {entry['year']}"


def cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def review() -> list[dict[str, Any]]:
    """The references, with the objectives, recipes and other parts in which each is found."""
    found: list[dict[str, Any]] = yaml.safe_load(REVIEW.read_text(encoding="utf-8"))
    return found


def methods() -> str:
    """The page of the references: those of the survey, and those beyond it, one row each."""
    entries = review()
    survey, beyond = (
        [each for each in entries if each.get("beyond", False) is is_beyond] for is_beyond in (False, True)
    )
    return f"{HEAD}\n## Of the survey\n\n{references(survey)}\n\n## Beyond it\n\n{references(beyond)}\n"


def references(entries: list[dict[str, Any]]) -> str:
    """A table with a row each."""
    lines = ["| reference | in the toolkit | carries over | does not, and why |", "| --- | --- | --- | --- |"]
    for entry in entries:
        named = [f"`{name}`" for name in entry.get("objectives", [])]
        named += [f"recipe `{name}`" for name in entry.get("recipes", [])]
        named += [f"`{name}`" for name in entry.get("parts", [])]
        where = ", ".join(named) or "none"
        lines.append(f"| {' | '.join(map(cell, (reference(entry), where, entry['carries'], entry['rest'])))} |")
    return "\n".join(lines)


def reference(entry: dict[str, Any]) -> str:
    """Authors, year and title, with a link where one is known."""
    link = entry.get("link", "")
    address = f"https://arxiv.org/abs/{link.removeprefix('arXiv:')}" if link.startswith("arXiv:") else link
    title = f"[{entry['title']}]({address})" if address else entry["title"]
    return f"{entry['authors']}, {entry['year']}: {title}"


def main() -> None:
    text = OBJECTIVES.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = {OBJECTIVES: f"{before}{BEGIN}\n{table()}\n{END}{after}", METHODS: methods()}
    old = [path.name for path, page in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != page]
    if "--check" in sys.argv and old:
        raise SystemExit(f"{' and '.join(old)}: out of date; run python scripts/document_objectives.py")
    for path, page in wanted.items():
        path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
