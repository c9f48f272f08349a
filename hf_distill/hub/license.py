"""The licence that a model's own card states, so that what is made of the model can pass it on."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hf_distill.errors import HubError
from hf_distill.hub.front_matter import FILE_NAME, metadata_of
from hf_distill.hub.record import ADDRESS, LICENSE, is_hub_id

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
OTHER = "other"
"""The identifier of licences that the Hub does not know, which have a name and a link."""

_FILE = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


class License(NamedTuple):
    """What a card states of a licence: its identifier, and of one that the Hub does not know (`other`) name and
    address."""

    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None


@cache
def license_of(name_or_path: str | os.PathLike[str], revision: str | None = None) -> License:
    """The licence that the card of a model states, which is a folder or a name on the Hub.

    Its identifier is None where there is no card, none that can be read or reached now (a warning says why), or no
    licence in it. A link to a file of the model's repository becomes the address of that file.
    """
    card = _card(name_or_path, revision)
    if card is None:
        return License()
    with card.open("rb") as file:
        text = file.read(MAX_BYTES).decode("utf-8", errors="replace")
    if not text.startswith("---"):
        return License()
    try:
        found = metadata_of(text)
    except HubError as error:
        logger.warning("The licence of %s is not known: %s", name_or_path, error)
        return License()
    identifier = _matching(LICENSE, found.get("license"))
    if identifier != OTHER:
        return License(identifier)
    files = None if Path(name_or_path).is_dir() else f"{name_or_path}/blob/{revision or 'main'}"
    return License(identifier, _matching(LICENSE, found.get("license_name")), _address(found, files))


def _address(found: Mapping[str, Any], files: str | None) -> str | None:
    """The link of the metadata `found`; `files` is the place on the Hub of those that lie beside them, if any is."""
    link = found.get("license_link")
    file = _matching(_FILE, link)
    if file is None or files is None:
        return _matching(ADDRESS, link)
    return f"https://huggingface.co/{files}/{file}"


def _matching(form: str, value: object) -> str | None:
    return value if isinstance(value, str) and re.fullmatch(form, value) else None


def _card(name_or_path: str | os.PathLike[str], revision: str | None) -> Path | None:
    folder = Path(name_or_path)
    if folder.is_dir():
        return folder / FILE_NAME if (folder / FILE_NAME).is_file() else None
    if not is_hub_id(str(name_or_path)):
        return None
    try:
        return Path(hf_hub_download(str(name_or_path), FILE_NAME, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        logger.warning("The licence of %s is not known, as its card cannot be read: %s", name_or_path, reason)
        return None
