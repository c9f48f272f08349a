"""Papers in a line, out of BibTeX."""

from __future__ import annotations

import re

FIELD = re.compile(r"^\s*(\w+)\s*=\s*\{(.*?)\}\s*,?\s*$", re.MULTILINE | re.DOTALL)
ACCENT = re.compile(r"\{?\\[a-zA-Z'`\"^~=.]+\s?\{?(\w)\}?\}?")
MANY = 3
"""Authors who are all named."""


def paper(citation: str) -> str:
    """Authors, year, title and where to find it; empty without a citation."""
    fields = {name.lower(): _plain(value) for name, value in FIELD.findall(citation)}
    if "title" not in fields:
        return ""
    place = f"arXiv:{fields['eprint']}" if "eprint" in fields else fields.get("url", "")
    parts = [f"{_authors(fields.get('author', ''))} ({fields.get('year', '?')})", fields["title"], place]
    return ". ".join(part for part in parts if part)


def _plain(value: str) -> str:
    """Without braces, commands and line breaks."""
    return " ".join(ACCENT.sub(r"\1", value).replace("{", "").replace("}", "").split())


def _authors(field: str) -> str:
    names = [name.split(",")[0].strip() for name in field.split(" and ")]
    if len(names) > MANY:
        return f"{names[0]} et al."
    return " & ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
