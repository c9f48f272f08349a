"""Writes the table of recipes into recipes/README.md, and docs/recipes.md with the figures that their heads state,
both from the YAML files; `--check` only says whether they are up to date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hf_distill.recipe import Member, Recipe, Student, Teacher, shipped

ROOT = Path(__file__).parents[1]
README, PAGE = ROOT / "recipes" / "README.md", ROOT / "docs" / "recipes.md"
BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"

HEAD = """# Recipes

A recipe says what a distillation consists of: teacher, student, data, and stages of training with their
objectives. These come with the package and are named as here, `--recipe pretraining/distilbert`; flags win over
what a recipe says. For more, copy the file from the folder `recipes`. What is called expected was published, with
its source, and has not been measured here; what was is under [results](#results). This page is made of the YAML
files and of `recipes/README.md` by `scripts/document_recipes.py`.
"""

ROOMS = {
    "": ("First steps", "Runs on a CPU, without a network."),
    "glue": ("GLUE", "Teachers that are trained first, and students of half their layers."),
    "qa": ("Questions", "Answers that are spans of a text."),
    "embeddings": ("Sentence encoders", "Vectors of sentences, which sentence-transformers loads."),
    "ner": ("Tagged tokens", "Names in English web texts."),
    "language_models": ("Language models", "Causal models, on conversations, raw text and texts of their own."),
    "pretraining": ("Pre-training", "General students from raw text."),
    "tasks": ("Tasks, as published", "Stages on a task of GLUE; --task_name gives another."),
    "review": ("Methods of the literature", "One recipe each, so that they can be compared on one task."),
    "comparisons": ("Comparisons", "At the size of a machine without an accelerator."),
}
"""The folders of recipes, with a title and what is in them."""


def table() -> str:
    """One row a recipe: name, teacher, student, objectives stage by stage, the paper that its head cites."""
    lines = ["| recipe | teacher | student | objectives | paper |", "| --- | --- | --- | --- | --- |"]
    for name, file in shipped().items():
        recipe = Recipe.load(name)
        cells = (_teacher(recipe.teacher), _student(recipe.student), _objectives(recipe), _paper(_head(file)))
        lines.append(f"| {' | '.join((f'`{name}`', *cells))} |")
    return "\n".join(lines)


def _teacher(teacher: Teacher | None) -> str:
    if teacher is None:
        return "none"
    if teacher.moving_average is not None:
        return "the student's moving average"
    if teacher.adapter_off is not None:
        return "the student without its adapters"
    if teacher.peers is not None:
        return f"{teacher.peers.count} beside the student"
    if teacher.ensemble is not None:
        return " and ".join(map(_named, teacher.ensemble.members.values()))
    return f"{_named(teacher)}, trained first" if teacher.fine_tune is not None else _named(teacher)


def _named(section: Teacher | Member) -> str:
    return str(section.model) if section.package is None else section.package.name


def _student(student: Student) -> str:
    """The model, or the way to make it with what it is given."""
    if student.model is not None:
        return student.model
    return ", then ".join(
        f"{maker}: {', '.join(f'{key} {value}' for key, value in settings.items())}" if settings else maker
        for maker, settings in student.model_dump(exclude={"trust_remote_code"}, exclude_unset=True).items()
    )


def _objectives(recipe: Recipe) -> str:
    """`a + b, then c`; stages of the same objectives, as those of a progressive transfer, are told once."""
    sums = [" + ".join(entry.objective for entry in stage.objectives) for stage in recipe.stages]
    counts = [(each, sums.count(each)) for each in dict.fromkeys(sums)]
    return ", then ".join(each if number == 1 else f"{each} ({number} stages)" for each, number in counts)


def _head(file: object) -> str:
    """The comment at the head of a recipe, on one line."""
    head = file.read_text(encoding="utf-8").partition("schema:")[0]  # type: ignore[attr-defined]
    return " ".join(line.removeprefix("#").strip() for line in head.splitlines()).strip()


def _paper(head: str) -> str:
    found = re.search(r"\(([^()]*), (\d{4}), arXiv:([\d.]+\d)\)", head)
    return "" if found is None else f"[{found[1]}, {found[2]}](https://arxiv.org/abs/{found[3]})"


def page(results: str) -> str:
    """The documentation's page: a table for each folder of recipes, then the results."""
    found = shipped()
    parts = [HEAD]
    for room, (title, meaning) in ROOMS.items():
        rows = [_row(name) for name in found if name.rpartition("/")[0] == room]
        parts.append("\n".join([f"## {title}", "", f"{meaning}\n", *COLUMNS, *rows, ""]))
    lost = [name for name in found if name.rpartition("/")[0] not in ROOMS]
    if lost:
        raise SystemExit(f"{lost[0]}: its folder has no title in ROOMS of {Path(__file__).name}")
    return "\n".join([*parts, results])


COLUMNS = ("| recipe | student | objectives | paper | expected |", "| --- | --- | --- | --- | --- |")


def _row(name: str) -> str:
    recipe, head = Recipe.load(name), _head(shipped()[name])
    cells = (f"`{name}`", _student(recipe.student), _objectives(recipe), _paper(head), expected(head))
    return f"| {' | '.join(cells)} |"


def expected(head: str) -> str:
    """The figures that the head of a recipe states, with their source; empty where it has none."""
    found = re.search(r"\bExpected\b(.*?)(?: It has not been run| Another group's|$)", head)
    told = "" if found is None else found[1].strip(" :,").replace("|", "\\|")
    return told[:1].upper() + told[1:]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    _, heading, results = after.partition("## Results\n")
    wanted = {README: f"{before}{BEGIN}\n{table()}\n{END}{after}", PAGE: page(heading + results)}
    old = [path for path, page_ in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != page_]
    if "--check" in sys.argv and old:
        named = " and ".join(path.relative_to(ROOT).as_posix() for path in old)
        raise SystemExit(f"{named}: out of date; run python scripts/document_recipes.py")
    for path, page_ in wanted.items():
        path.write_text(page_, encoding="utf-8")


if __name__ == "__main__":
    main()
