"""The web page of a report: what stands on it, and its text. Needs jinja2, which is optional."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hf_distill.errors import DistillationError

TEMPLATE = Path(__file__).with_name("report.html.jinja")


@dataclass(frozen=True)
class Part:
    """A heading with a text, a table (`kind` is "counts" or "texts") and a PNG, which as a file has the name `file`;
    each may be left out."""

    heading: str
    text: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    kind: str = "counts"
    file: str = ""
    png: bytes = b""

    @property
    def image(self) -> str:
        """The PNG as the page holds it."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Chapter:
    """A table of runs with notes, and the parts below it; `folded` are chapters that a reader opens."""

    heading: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = ()
    parts: Sequence[Part] = ()
    folded: Sequence[Chapter] = field(default_factory=tuple)


def page(title: str, chapters: Sequence[Chapter]) -> str:
    """The page, which refers to nothing outside it. All that it is given is shown as text.

    Errors: DistillationError if jinja2 is missing.
    """
    text: str = _template().render(title=title, chapters=chapters)
    return text


@cache
def _template() -> Any:
    try:
        from jinja2 import Environment, StrictUndefined
    except ModuleNotFoundError as error:
        raise DistillationError(
            f'The page of a report needs jinja2 ({error}); install it: pip install "hf_distill[report]"'
        ) from error
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return made.from_string(TEMPLATE.read_text(encoding="utf-8"))
