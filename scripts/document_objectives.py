"""Writes the table of objectives into the README, from the registry; `--check` only says whether it is up to date."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from hf_distill import objectives

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- objectives: begin -->", "<!-- objectives: end -->"


def table() -> str:
    """One row an objective: name, kind, first line of its documentation, settings."""
    lines = ["| name | kind | what it is | settings |", "| --- | --- | --- | --- |"]
    for name in objectives.names():
        objective = objectives.get(name)
        kind = objective.__module__.split(".")[-2].replace("_", "-")
        summary = re.split(r"\n\s*\n", inspect.getdoc(objective) or "")[0].replace("\n", " ").replace("|", "\\|")
        settings = ", ".join(f"`{parameter}`" for parameter in inspect.signature(objective).parameters)
        lines.append(f"| `{name}` | {kind} | {summary} | {settings} |")
    return "\n".join(lines)


def main() -> None:
    text = README.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--check" not in sys.argv:
        README.write_text(wanted, encoding="utf-8")
    elif text != wanted:
        raise SystemExit("the README's table of objectives is out of date: run python scripts/document_objectives.py")


if __name__ == "__main__":
    main()
