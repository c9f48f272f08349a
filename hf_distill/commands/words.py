"""The words of the command line: commands, their flags, and what may stand behind these."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hf_distill import objectives
from hf_distill.commands.main import COMMANDS
from hf_distill.data import glue
from hf_distill.recipe import shipped

KNOWN: dict[str, Callable[[], Iterable[str]]] = {
    "recipe": shipped,
    "recipes": shipped,
    "objective": objectives.names,
    "task_name": lambda: glue.TASKS,
    "report_to": lambda: ("none", "tensorboard", "trackio", "wandb"),
}
"""Names that may stand for a value, by the name of the argument that takes them."""


@dataclass(frozen=True)
class Words:
    """What may stand behind a command, or behind a command and its first word: flags, and other words."""

    flags: tuple[str, ...]
    others: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    """By the flag behind which they stand."""
    several: frozenset[str] = frozenset()
    """The flags behind which several values may stand."""


def known_words() -> dict[str, Words]:
    """The words by the command, `glue`, or the command and its first word, `compare glue`."""
    found: dict[str, Words] = {}
    for name, row in COMMANDS.items():
        parsers = parsers_of(importlib.import_module(f"hf_distill.commands.{row.module}"))
        behind = tuple(word for word in parsers if word)
        found[name] = _words(parsers[""], behind) if "" in parsers else Words((), behind, {})
        found |= {f"{name} {word}": _words(parser, ()) for word, parser in parsers.items() if word}
    return found


def parsers_of(module: ModuleType) -> dict[str, argparse.ArgumentParser]:
    """The parsers of a command by its first word, or one by the empty word where it has none."""
    made: Any = module
    if hasattr(made, "parsers"):
        return dict(made.parsers())
    return {"": made.parser()} if hasattr(made, "parser") else {}


def _words(parser: argparse.ArgumentParser, behind: tuple[str, ...]) -> Words:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    options = {spelling: action for action in shown if (spelling := _spelling(action))}
    values = {spelling: tuple(_values(action)) for spelling, action in options.items()}
    positional = [word for action in shown if not action.option_strings for word in _values(action)]
    return Words(
        flags=tuple(options),
        others=(*behind, *positional),
        values={flag: words for flag, words in values.items() if words},
        several=frozenset(flag for flag, action in options.items() if action.nargs == "+"),
    )


def _spelling(action: argparse.Action) -> str | None:
    """The first long one; that with dashes for underscores is the second."""
    return next((each for each in action.option_strings if each.startswith("--")), None)


def _values(action: argparse.Action) -> Iterator[str]:
    """The words that may be the value of an argument, as far as they are known."""
    if action.choices is not None:
        yield from map(str, action.choices)
    elif action.dest in KNOWN:
        yield from KNOWN[action.dest]()
