"""From the text of a YAML file to plain values, each with its line. The text is foreign and may be hostile.

Read is the common core of YAML 1.2: `true` and `false` are the only booleans, so that `no` and `off` stay words;
`1e-4` is a number; `0123`, `1_000`, `0x1F` and `12:30:00` stay text, which no number field takes. Keys are text as
they are written. Aliases, anchors and tags are refused, and so are keys given twice, more than `MAX_DEPTH` levels, and
more than `MAX_NODES` keys and values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from hf_distill.access_tokens import TOKEN
from hf_distill.errors import RecipeError
from hf_distill.recipe.problems import Origin, Path, Problem, shown

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 20
MAX_WHOLE = 2**63 - 1
LEFT_OUT = "?"
"""Stands for a value that was refused, so that its place does not look empty."""

_TAG = "tag:yaml.org,2002:"
_WHOLE = r"[-+]?(0|[1-9][0-9]*)"
_NUMBER = r"[-+]?(\.[0-9]+|(0|[1-9][0-9]*)(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
_PLAIN_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", _WHOLE, list("-+0123456789")),
    ("float", _NUMBER, list("-+.0123456789")),
)
_MEANING: dict[str, Callable[[str], Any]] = {
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": int,
    "float": float,
    "str": str,
}


@dataclass
class Document:
    """Plain values, where each was written, and what was wrong with the writing."""

    data: Any
    origin: Origin
    problems: list[Problem] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """Composes nodes within the limits; `_Loader` never constructs objects."""

    yaml_implicit_resolvers = {}  # noqa: RUF012  (yaml's own way to give a loader its rules)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = self.nodes = 0

    def fetch_more_tokens(self) -> None:
        try:
            super().fetch_more_tokens()
        except (ValueError, OverflowError) as error:  # what Python says of a number that yaml gives it unchecked
            refusal = "a number is too large: an escape (\\U) that is no character, or the version of %YAML"
            raise yaml.scanner.ScannerError(None, None, refusal, self.get_mark()) from error

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        refusal = ""
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            refusal = (
                "anchors (&) and aliases (*) are not read; write the value out, or put text with '&' or '*' in quotes"
            )
        elif event.tag is not None:
            refusal = "tags (!) are not read; write a plain value, or put text with '!' in quotes"
        elif self.depth > MAX_DEPTH:
            refusal = f"more than {MAX_DEPTH} levels of nesting; a recipe needs no more than 8"
        elif self.nodes > MAX_NODES:
            refusal = f"more than {MAX_NODES} keys and values; a recipe is smaller"
        if refusal:
            raise yaml.composer.ComposerError(None, None, refusal, event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


for _name, _pattern, _first in _PLAIN_SCALARS:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


class Dumper(yaml.SafeDumper):
    """Quotes whatever this reader or one of YAML 1.1 would not take for text."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: _Loader.yaml_implicit_resolvers.get(first, []) + yaml.SafeDumper.yaml_implicit_resolvers.get(first, [])
        for first in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: object) -> bool:
        """Write every value out, as the reader takes no aliases."""
        return True


def as_number(value: Any, *, whole: bool) -> Any:
    """Text that reads as a (whole) number as that number, all else as it is: for values in quotes or from flags."""
    if not isinstance(value, str) or len(value) > 40 or not re.fullmatch(_WHOLE if whole else _NUMBER, value):
        return value
    return int(value) if whole else float(value)


def parse(text: str, source: str) -> Document:
    """The values of a YAML text.

    Raises: `RecipeError` for what cannot be read at all; lesser faults (keys given twice, numbers too long) are kept
    in `Document.problems`, to be told together with the rest.
    """
    if len(text) > MAX_BYTES:
        raise RecipeError(f"{source}: {len(text)} characters; a recipe has at most {MAX_BYTES}.")
    try:
        node = _Loader(text).get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{source}: line {line}: character {chr(error.character)!r} may not stand in YAML."
        ) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place: dict[Path, str] = {(): f"line {mark.line + 1}"} if mark else {}
        text = ", ".join(part for part in (error.problem, error.context) if part)
        raise Origin(source, place).error([Problem((), f"not readable as YAML: {text}.")]) from error
    reading = _Reading()
    data = None if node is None else reading.value(node, ())
    return Document(data, Origin(source, reading.places), reading.problems)


class _Reading:
    """One walk over the nodes; recursion ends at `MAX_DEPTH`, which the loader has held."""

    def __init__(self) -> None:
        self.places: dict[Path, str] = {}
        self.problems: list[Problem] = []

    def value(self, node: yaml.Node, path: Path) -> Any:
        self.places.setdefault(path, f"line {node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
        kind = node.tag.removeprefix(_TAG)
        try:
            return _MEANING[kind](node.value)
        except ValueError:  # a whole number of thousands of digits
            self.problems.append(Problem(path, f"a number of {len(node.value)} digits is too long."))
            return LEFT_OUT

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = f"line {key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(path, f"the key on {line} is a list or a mapping; a key is a word."))
                continue
            key = key_node.value
            here = (*path, key)
            if key in found:
                self.problems.append(Problem(here, f"given twice, on {self.places[here]} and on {line}; keep one."))
                continue
            self.places[here] = line
            found[key] = self.value(value_node, here)
        return found


def cleaned(data: object) -> tuple[Any, list[Problem]]:
    """A copy of plain data without secrets, and the problems of what had to be left out.

    Left out are values that are not plain (text, numbers, booleans, null, lists, mappings with text as keys), numbers
    that are not finite, text that no file can hold, and what looks like an access token; that is repeated nowhere.
    Stops at `MAX_DEPTH` levels and `MAX_NODES` values, each counted as often as it appears.
    """
    cleaning = _Cleaning()
    return cleaning.value(data, (), 1), cleaning.problems


class _Cleaning:
    def __init__(self) -> None:
        self.nodes = 0
        self.problems: list[Problem] = []

    def value(self, value: Any, path: Path, depth: int) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            if self.nodes == MAX_NODES + 1:
                self._refuse((), f"more than {MAX_NODES} keys and values; a recipe is smaller.")
            return None
        if isinstance(value, dict | list | tuple):
            if depth > MAX_DEPTH:
                return self._refuse(path, f"more than {MAX_DEPTH} levels of nesting; a recipe needs no more than 8.")
            if isinstance(value, dict):
                return self._mapping(value, path, depth)
            return self._sequence(value, path, depth)
        fault = _scalar_fault(value)
        return self._refuse(path, fault) if fault else value

    def _sequence(self, value: list[Any] | tuple[Any, ...], path: Path, depth: int) -> list[Any]:
        items = []
        for i, item in enumerate(value):
            if self.nodes > MAX_NODES:
                break
            items.append(self.value(item, (*path, i), depth + 1))
        return items

    def _mapping(self, value: dict[Any, Any], path: Path, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, item in value.items():
            if self.nodes > MAX_NODES:
                break
            if not isinstance(key, str) or _scalar_fault(key):
                self._refuse(path, f"a key is a word; given {'a token' if _is_token(key) else shown(key)}.")
            elif key.lower().endswith("token"):
                self._refuse((*path, key), _NO_TOKENS)
            else:
                found[key] = self.value(item, (*path, key), depth + 1)
        return found

    def _refuse(self, path: Path, text: str) -> str:
        self.problems.append(Problem(path, text))
        return LEFT_OUT


_NO_TOKENS = (
    "an access token does not belong in a recipe; remove it, revoke it if it is real, and use `hf auth login`."
)


def _is_token(value: object) -> bool:
    return isinstance(value, str) and TOKEN.search(value) is not None


def _scalar_fault(value: object) -> str:
    """What is wrong with a plain value; empty when nothing is."""
    if value is None or isinstance(value, bool):
        return ""
    if isinstance(value, str):
        if _is_token(value):
            return _NO_TOKENS
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half a surrogate pair, which is no character."
        return "holds a NUL character." if "\0" in value else ""
    if isinstance(value, int):
        return "the number is too large." if abs(value) > MAX_WHOLE else ""
    if isinstance(value, float):
        return "" if math.isfinite(value) else f"must be a finite number; given {value}."
    return f"must be plain text, a number, true, false, null, a list or a mapping; given {type(value).__name__}."
