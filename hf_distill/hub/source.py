"""The record of a run that lies in a folder, or in a repository of the Hub."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from hf_distill.errors import HubError
from hf_distill.hub.client_errors import as_hub_error, until_it_holds
from hf_distill.hub.record import FILE_NAME, Record, is_hub_id


def record_from(source: str | os.PathLike[str], *, sleep: Callable[[float], None] = time.sleep) -> Record:
    """The record in a folder, in a file of that name, or in a repository: `owner/name`, or `owner/name@revision`.

    Raises: `HubError` where there is none, a file has another name, the Hub fails, or the record is not valid.
    """
    path = Path(source).expanduser()
    if path.is_file() and path.name != FILE_NAME:
        raise HubError(
            f"{path} is a file, and a record is one named {FILE_NAME}; give that file or the folder of the run, or "
            "rename this one if it is a record."
        )
    if path.is_dir() or path.is_file():
        return Record.read(path if path.is_dir() else path.parent)
    repo_id, _, revision = str(source).partition("@")
    if not is_hub_id(repo_id):
        raise HubError(f"{str(source)!r} is no folder, and no repository on the Hub can have that name.")
    return Record.read(until_it_holds(lambda: _downloaded(repo_id, revision or None), sleep).parent)


def _downloaded(repo_id: str, revision: str | None) -> Path:
    with as_hub_error(repo_id):
        try:
            return Path(hf_hub_download(repo_id, FILE_NAME, revision=revision))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError as error:
            raise HubError(
                f"{repo_id}: there is no {FILE_NAME}; give a repository that hf_distill published, or a folder."
            ) from error
