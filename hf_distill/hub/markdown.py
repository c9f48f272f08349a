"""Foreign text in Markdown: whatever a name, a setting or a command holds, it stays text."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterable, Sequence

MAX_LENGTH = 300
_SPECIAL = re.compile(r"([\\`*_\[\]|~#$!])")
_PLAIN_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./=,:+-]*")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


def line(text: str) -> str:
    """One line without control, format or unassigned characters, at most `MAX_LENGTH` long."""
    shown = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    shown = " ".join(shown.split())
    return shown if len(shown) <= MAX_LENGTH else shown[: MAX_LENGTH - 1] + "…"


def escaped(text: str) -> str:
    """`text` as Markdown that shows it: no HTML, no table bars, no headings, links or line breaks."""
    shown = _SPECIAL.sub(r"\\\1", line(text))
    return re.sub(r"[&<>]", lambda match: _HTML[match.group()], shown)


def code(text: str) -> str:
    """A plain name as a code span; anything else as escaped text."""
    return f"`{text}`" if _PLAIN_WORD.fullmatch(text) and len(text) <= MAX_LENGTH else escaped(text)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are escaped already."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _word(argument: str) -> str:
    if all(c.isprintable() and c not in "<>`" for c in argument):
        return shlex.quote(argument)
    spelled = "".join(
        f"\\{c}"
        if c in "\\'"
        else c
        if c.isprintable() and c not in "<>`"
        else "".join(f"\\x{b:02x}" for b in c.encode())
        for c in argument.encode("utf-8", "replace").decode()
    )
    return f"$'{spelled}'"


def shell(argv: Sequence[str]) -> str:
    """`argv` as one line for bash, in a code block; characters that could leave the block are spelled as escapes."""
    return block(" ".join(_word(argument) for argument in argv), "bash")


def block(text: str, language: str) -> str:
    """A fenced code block. `text` keeps its lines and loses its control characters; it cannot close the fence."""
    kept = "".join(c for c in text if c == "\n" or unicodedata.category(c)[0] != "C")
    kept = kept.replace("`", "'").replace("<", "{\\textless}") if language == "bibtex" else kept
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", kept)), default=0))
    return f"{fence}{language}\n{kept.strip()}\n{fence}"
