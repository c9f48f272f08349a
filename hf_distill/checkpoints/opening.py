"""Whether files whose sums are not known yet are what their names say."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open


def fault_of_form(path: Path) -> str | None:
    """Why a file cannot be what was written, as far as its form tells; None where nothing speaks against it.

    A power cut may leave a file of the right size that holds zeros, before it was seen to the disk. What torch wrote
    has check sums of its own; of safetensors the header alone is looked at.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return None
        if path.suffix in (".pt", ".pth", ".bin"):
            with zipfile.ZipFile(path) as archive:
                damaged = archive.testzip()
            return None if damaged is None else f"{path.name} is damaged at {damaged}"
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    except (SafetensorError, zipfile.BadZipFile, OSError, ValueError, RecursionError) as error:
        return f"{path.name} cannot be read: {error}"
    return None
