"""The pages that a user reads, and what is in them: links, headings, blocks of code, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "recipes" / "README.md", *sorted(DOCS.glob("*.md")))

BLOCK = re.compile(r"^(?:<!-- (?P<marker>[^\n]*?) -->\n)?```(?P<language>\w+)\n(?P<code>.*?)^```$", re.M | re.S)
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (?P<title>.+)$", re.M)
STARTERS = ("python", "python3", "accelerate", "torchrun", ".venv/bin/python")


@dataclass(frozen=True)
class Block:
    """A block of code, and the comment above it if there is one."""

    page: Path
    line: int
    marker: str
    language: str
    code: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}, line {self.line}"


@dataclass(frozen=True)
class Call:
    """A command of ours in a shell block: the name of its module in `hf_distill.commands`, and its words."""

    place: str
    program: str
    words: tuple[str, ...]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(language: str) -> list[Block]:
    """All blocks of a language, page by page."""
    found = []
    for page in PAGES:
        text = text_of(page)
        for match in BLOCK.finditer(text):
            if match["language"] == language:
                line = text.count("\n", 0, match.start()) + 1
                found.append(Block(page, line, match["marker"] or "", language, match["code"]))
    return found


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return BLOCK.sub("", text_of(page))


def links(page: Path) -> list[str]:
    """The targets of its links, those in code spans left out."""
    return [match["target"] for match in LINK.finditer(re.sub(r"`[^`\n]*`", "", prose(page)))]


def anchors(page: Path) -> set[str]:
    """What its headings can be linked by, as Markdown readers make it."""
    titles = [match["title"].lower() for match in HEADING.finditer(prose(page))]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip()) for title in titles}


def spans(page: Path) -> list[str]:
    """Its code spans, each on one line."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def calls(block: Block) -> Iterator[Call]:
    """The commands of a shell block that are ours, by `hf-distill NAME` or by a script."""
    for line in re.sub(r"\\\n\s*", " ", block.code).splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            script = next((i for i, word in enumerate(words) if re.fullmatch(r"scripts/\w+\.py", word)), None)
            if words[:1] == ["hf-distill"] and words[1:] and re.fullmatch(r"(?!help$)[a-z][\w-]*", words[1]):
                yield Call(block.place, words[1], tuple(words[2:]))
            elif script is not None and words[0] in STARTERS:
                yield Call(block.place, words[script], tuple(words[script + 1 :]))
