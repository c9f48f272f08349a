"""Prints a command of the README: `python scripts/readme_command.py quickstart`, or `tests`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def command(name: str) -> str:
    """The single line of the shell block below the marker `<!-- command: name -->`."""
    text = README.read_text(encoding="utf-8")
    found = re.search(rf"<!-- command: {re.escape(name)} -->\n```bash\n([^\n]+)\n```", text)
    if found is None:
        raise SystemExit(f"{README.name} has no command {name!r}")
    return found[1]


if __name__ == "__main__":
    print(command(sys.argv[1]))
