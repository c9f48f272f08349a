"""What must not leave this machine: tokens, absolute paths, host names."""

from __future__ import annotations

import json
import math
import numbers
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path, PurePath, PureWindowsPath
from typing import TypeAlias

from huggingface_hub import get_token
from pydantic import JsonValue

from hf_distill.access_tokens import TOKEN

Plain: TypeAlias = JsonValue

_SECRET_KEY = re.compile(r"(?:token|password|secret|api_?key)$", re.IGNORECASE)
_HOST_KEYS = frozenset({"logging_dir"})
_TRAININGS = ("teacher.fine_tune", "stages.*")
_PATH_ARGUMENTS = ("accelerator_config", "deepspeed", "fsdp_config", "run_name")
_PATHS_OF_A_RECIPE = tuple(
    key.split(".")
    for key in (
        "dataset_dir",
        "data.files.*",
        "data.exemplars",
        "data.chat.template",
        "data.text.*.*.files.*",
        "data.text.masking.counts",
        "data.text.cache_dir",
        "augmentation.masked_lm",
        "augmentation.word_vectors",
        "teacher.model",
        "teacher.ensemble.members.*.model",
        "teacher.cached.folder",
        "teacher.cache.folder",
        "teacher.generate.folder",
        "student.model",
        "stages.*.student.model",
        *(f"{training}.arguments.{name}" for training in _TRAININGS for name in _PATH_ARGUMENTS),
    )
)
"""What may be a path in a recipe, there or below; `*` is any key, or the number of an entry."""
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_PATH = re.compile(
    r"""
      file:/+ [^\s"',;|<>()\[\]{}]+                                  # file URL
    | (?<![A-Za-z0-9]) [A-Za-z]:[\\/] (?!/) [^\s"',;|<>()\[\]{}]+    # drive letter
    | (?<!\S) \\\\ [^\s"',;|<>()\[\]{}]+                             # network share
    | (?<![\w./\\-]) ~[\w.-]*/ [^\s"',;|<>()\[\]{}]*                 # home
    | (?<![\w./\\-]) (?:\.\./)+ [^\s"',;|<>()\[\]{}]*                # above the working tree
    | (?<![\w./~\\-]) /(?!/) [^\s"',;:|<>()\[\]{}]+                  # absolute
    """,
    re.VERBOSE,
)


def _is_outside(text: str) -> bool:
    return text.startswith(("/", "~", "../")) or text == ".." or _WINDOWS.match(text) is not None


def _inside_name(path: str) -> str:
    """Relative to the working tree when inside it, else the last component."""
    if _WINDOWS.match(path):
        return PureWindowsPath(path).name or "path"
    path = re.sub(r"^file:/+", "/", path)
    tree = Path.cwd()
    if tree != Path(tree.anchor) and PurePath(path).is_relative_to(tree) and ".." not in PurePath(path).parts:
        return PurePath(path).relative_to(tree).as_posix()
    return PurePath(path).name or "path"


def _without_tokens(text: str) -> str:
    """`text` with tokens removed. Lone surrogates, which no file can hold, become question marks."""
    return TOKEN.sub("[token removed]", text.encode("utf-8", "replace").decode())


def redacted_name(text: str) -> str:
    """`text` with tokens removed, and paths outside the working tree cut to their names.

    A text that is one path as a whole may hold blanks; paths inside a longer text end at a blank or a quote.
    """
    text = _without_tokens(text)
    return _inside_name(text) if _is_outside(text) else _PATH.sub(lambda match: _inside_name(match.group()), text)


def redacted_text(text: str) -> str:
    """As `redacted_name`, and the host name replaced."""
    text = redacted_name(text)
    host = re.escape(socket.gethostname())
    return re.sub(rf"^{host}$|(?<=[_@]){host}(?![A-Za-z0-9-])", "host", text) if host else text


def _is_secret(key: str, value: object) -> bool:
    return key in _HOST_KEYS or (isinstance(value, str) and _SECRET_KEY.search(key) is not None)


def redacted(value: object) -> Plain:
    """`value` as plain JSON without tokens, absolute paths or host names; entries under token-like keys are left out.

    Infinite and undefined numbers become the texts `inf`, `-inf`, `nan`; objects that JSON lacks become their text.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, Enum):
        return redacted(value.value)
    if isinstance(value, Mapping):
        return {
            redacted_text(str(key)): redacted(item) for key, item in value.items() if not _is_secret(str(key), item)
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [redacted(item) for item in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    if type(value).__str__ is object.__str__ and type(value).__repr__ is object.__repr__:
        return type(value).__name__
    return redacted_text(str(value))


def redacted_recipe(value: object) -> Plain:
    """The recipe of a record, as it is but for tokens, and absolute paths where it names models, files and folders.

    Its other texts are trained on, or choose what is: prompts, labels, the values of cells. `</s>` is no path there,
    and a column `password` no secret.
    """
    return _of_recipe(value, ())


def _of_recipe(value: object, key: tuple[str, ...]) -> Plain:
    if isinstance(value, Mapping):
        return {_without_tokens(str(name)): _of_recipe(item, (*key, str(name))) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_of_recipe(item, (*key, str(number))) for number, item in enumerate(value)]
    if isinstance(value, str):
        return redacted_name(value) if _may_be_path(key) else _without_tokens(value)
    return redacted(value)


def _may_be_path(key: tuple[str, ...]) -> bool:
    return any(
        len(key) >= len(path) and all(part in ("*", found) for part, found in zip(path, key, strict=False))
        for path in _PATHS_OF_A_RECIPE
    )


def redacted_command(argv: list[str]) -> list[str]:
    """A command line fit to be shown: as `redacted_text` for each word, and the values of token-like flags removed."""
    shown: list[str] = []
    hides_next = False
    for word in argv:
        flag, equals, value = word.partition("=")
        is_secret = flag.startswith("-") and _SECRET_KEY.search(flag) is not None
        if hides_next and not word.startswith("-"):
            shown.append("[token removed]")
        elif is_secret and equals:
            shown.append(f"{flag}=[token removed]")
        elif flag.startswith("-") and equals:
            shown.append(f"{flag}={redacted_text(value)}")
        else:
            shown.append(redacted_text(word))
        hides_next = is_secret and not equals
    return shown


def _needles(folder: Path) -> Iterator[str]:
    """Spellings of the folders of this machine that a published text should not name."""
    for place in {folder.absolute(), folder.resolve(), Path.cwd(), Path.home(), Path(tempfile.gettempdir())}:
        if place != Path(place.anchor):
            yield from {str(place), place.as_posix(), json.dumps(str(place))[1:-1]}


def secrets_in(content: bytes, folder: Path, *, paths: bool = True) -> list[str]:
    """What `content`, about to leave `folder`, would give away; never the token itself.

    Args:
        paths: also look for paths of this machine. Off for vocabularies, where any piece of text is legitimate.
    """
    text = content.decode("utf-8", errors="replace")
    token = get_token()
    found = []
    if TOKEN.search(text) or (token and token in text):
        found.append("a Hub token")
    if paths:
        for needle in sorted(_needles(folder), key=len, reverse=True):
            if re.search(rf"(?<![\w.-]){re.escape(needle)}(?![\w-])", text):
                found.append(f"the path {needle!r} of this machine")
                break
    return found
