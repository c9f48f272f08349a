"""The day that a chat template is told. Templates may write it (those of Llama 3.2 do), and by the clock the tokens
of every conversation would be others at midnight."""

from __future__ import annotations

import json
from datetime import date as Day
from datetime import datetime, time

from transformers import PreTrainedTokenizerBase

DATE = "2024-07-26"
"""The day that the templates of Llama 3.1 write where they know none."""

ASKS = "strftime_now"
"""The function that transformers gives templates, and that asks the clock."""

_DIRECTIVES = "aAbBcCdDeFfgGhHIjmMnprRStTuUVwWxXyYzZ"
"""Letters behind % that C and Python know."""

_WITHOUT_ZEROS = "deHIjmMSUWy"
"""Those that glibc also takes behind %-."""

_TOLD = (
    "{%- macro strftime_now(format) -%}{%- for part in format.split('%%') -%}{%- set told = namespace(text=part) -%}"
    "{%- for directive, text in PAIRS -%}{%- set told.text = told.text.replace(directive, text) -%}{%- endfor -%}"
    "{{- '' if loop.first else '%' -}}{{- told.text -}}{%- endfor -%}{%- endmacro %}\n"
)
"""What stands before a template, as transformers 5.24 passes no functions to it with a conversation. Jinja takes off
the line break at its end, so that the template begins a line as before."""


def template_of(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The chat template that is used where none is named; None where there is none."""
    found: object = tokenizer.chat_template
    if isinstance(found, dict):
        found = found.get("default")
    return str(found) if found else None


def asks_for_day(template: str) -> bool:
    """Whether a template may write the day on which it is read."""
    return ASKS in template


def on_day(template: str, date: str) -> str:
    """A template that writes what `template` would at the first second of a day (as "2024-07-26")."""
    if not asks_for_day(template):
        return template
    day = datetime.combine(Day.fromisoformat(date), time())
    told = {f"%{letter}": day.strftime(f"%{letter}") for letter in _DIRECTIVES}
    bare = {f"%-{letter}": told[f"%{letter}"].strip().lstrip("0") or "0" for letter in _WITHOUT_ZEROS}
    return _TOLD.replace("PAIRS", json.dumps([*told.items(), *bare.items()])) + template
