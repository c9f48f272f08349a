"""What an author states in a card beyond the record of the run: language, licence and tags."""

from __future__ import annotations

from typing import Any, TypedDict

import yaml

from hf_distill.errors import HubError
from hf_distill.hub.front_matter import check, metadata_of


class Stated(TypedDict, total=False):
    """As `hf_distill.hub.card.Card.from_record` takes it; what is absent is left to the record."""

    language: str | list[str]
    license: str
    tags: str | list[str]


def stated(language: str | list[str] | None, license: str | None, tags: str | list[str] | None) -> Stated:
    """Those that are not None."""
    found = Stated()
    if language is not None:
        found["language"] = language
    if license is not None:
        found["license"] = license
    if tags is not None:
        found["tags"] = tags
    return found


def stated_in(card: str) -> Stated:
    """What the metadata of a card state, which may come from anybody; nothing where they cannot be read."""
    try:
        found = metadata_of(card)
    except HubError:
        return Stated()
    license = found.get("license")
    return stated(
        _texts(found.get("language")), license if isinstance(license, str) else None, _texts(found.get("tags"))
    )


def check_stated(found: Stated) -> None:
    """Raises: `HubError` for what a card may not state."""
    if found:
        check(f"---\n{yaml.safe_dump(dict(found))}---\n")


def lacking(asked: Stated, found: Stated) -> list[str]:
    """The keys of what is asked for and not found."""
    return [key for key, value in asked.items() if not _all(value) <= _all(found.get(key))]


def _all(value: Any) -> set[str]:
    return set() if value is None else {value} if isinstance(value, str) else set(value)


def _texts(value: Any) -> str | list[str] | None:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return value
    return value if isinstance(value, str) else None
