"""The licence that a model's own card states, so that what is made of the model can pass it on."""

from __future__ import annotations

import logging
import os
import re
from functools import cache
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

from hf_distill.errors import HubError
from hf_distill.hub.front_matter import FILE_NAME, metadata_of
from hf_distill.hub.record import is_hub_id

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}")
"""An identifier as the Hub spells it."""


@cache
def license_of(name_or_path: str | os.PathLike[str], revision: str | None = None) -> str | None:
    """The identifier that stands under `license` in the card of a model, which is a folder or a name on the Hub.

    None where there is no card, none that can be read or reached now (a warning says why), or no licence in it.
    """
    card = _card(name_or_path, revision)
    if card is None:
        return None
    with card.open("rb") as file:
        text = file.read(MAX_BYTES).decode("utf-8", errors="replace")
    if not text.startswith("---"):
        return None
    try:
        found = metadata_of(text).get("license")
    except HubError as error:
        logger.warning("The licence of %s is not known: %s", name_or_path, error)
        return None
    return found if isinstance(found, str) and LICENSE.fullmatch(found) else None


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
