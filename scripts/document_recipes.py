"""Writes the table of recipes into recipes/README.md, from the YAML files; `--check` only says whether it is up to
date."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from hf_distill.recipe import Member, Recipe, Student, Teacher, shipped

README = Path(__file__).parents[1] / "recipes" / "README.md"
BEGIN, END = "<!-- recipes: begin -->", "<!-- recipes: end -->"


def table() -> str:
    """One row a recipe: name, teacher, student, objectives stage by stage, the paper that its head cites."""
    lines = ["| recipe | teacher | student | objectives | paper |", "| --- | --- | --- | --- | --- |"]
    for name, file in shipped().items():
        recipe = Recipe.load(name)
        cells = (f"`{name}`", _teacher(recipe.teacher), _student(recipe.student), _objectives(recipe), _paper(file))
        lines.append(f"| {' | '.join(cells)} |")
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


def _paper(file: object) -> str:
    head = file.read_text(encoding="utf-8").partition("schema:")[0]  # type: ignore[attr-defined]
    words = " ".join(line.removeprefix("#").strip() for line in head.splitlines())
    found = re.search(r"\(([^()]*), (\d{4}), arXiv:([\d.]+\d)\)", words)
    return "" if found is None else f"[{found[1]}, {found[2]}](https://arxiv.org/abs/{found[3]})"


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" not in sys.argv:
        README.write_text(wanted, encoding="utf-8")
    elif text != wanted:
        raise SystemExit("the table of recipes is out of date: run python scripts/document_recipes.py")


if __name__ == "__main__":
    main()
