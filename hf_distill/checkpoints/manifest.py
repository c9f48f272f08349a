"""What a checkpoint holds, byte for byte, and which run it is of."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hf_distill.checkpoints.opening import fault_of_form
from hf_distill.errors import BrokenCheckpoint

MANIFEST = "manifest.json"
"""Written into a checkpoint last."""

_VERSION = 1
_MOST_BYTES = 16 * 2**20
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Content:
    """The size of a file in bytes, and its SHA-256 once it was computed."""

    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The step of a checkpoint, what tells its run from others, and its files by their names in the folder."""

    step: int
    run: Mapping[str, Any]
    files: Mapping[str, Content]

    @classmethod
    def of(cls, folder: Path, step: int, run: Mapping[str, Any]) -> Manifest:
        """What lies in a folder now, by size alone."""
        paths = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
        files = {path.relative_to(folder).as_posix(): Content(path.stat().st_size) for path in paths}
        return cls(step, run, files)

    def sealed(self, folder: Path) -> Manifest:
        """The same with the SHA-256 of every file, all of which are on the disk itself when it returns."""
        files = {name: Content(content.size, _settled_sum(folder / name)) for name, content in self.files.items()}
        for place in {folder, *((folder / name).parent for name in files)}:
            _sync(place)
        return Manifest(self.step, self.run, files)

    def write(self, folder: Path) -> None:
        """Writes the manifest whole or not at all."""
        files = {name: {key: value for key, value in vars(each).items() if value} for name, each in self.files.items()}
        told = {"version": _VERSION, "step": self.step, "run": self.run, "files": files}
        part = folder / f".{MANIFEST}.{os.getpid()}.part"
        with part.open("w", encoding="utf-8") as file:
            file.write(json.dumps(told, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(folder / MANIFEST)

    @classmethod
    def read(cls, folder: Path) -> Manifest | None:
        """The manifest of a checkpoint; None where there is none, as in those of other trainers.

        Raises: `BrokenCheckpoint` for one that is damaged, or that names files outside of the folder.
        """
        path = folder / MANIFEST
        if not path.is_file():
            return None
        try:
            if path.stat().st_size > _MOST_BYTES:
                raise ValueError(f"it has {path.stat().st_size} bytes, and {_MOST_BYTES} are the most")
            told = json.loads(path.read_text(encoding="utf-8"))
            if told["version"] != _VERSION:
                raise ValueError(f"its version is {told['version']!r}, and {_VERSION} is known here")
            return cls(_whole(told["step"]), dict(told["run"]), dict(map(_content, told["files"].items())))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            reason = str(error) or type(error).__name__
            raise BrokenCheckpoint(
                f"{path} cannot be read: {reason[:200]}. Resume from an earlier checkpoint."
            ) from error

    def fault(self, folder: Path, thoroughly: bool = True) -> str | None:
        """The first file that is not as it was written, and how; None where all are. Their bytes are read where it is
        looked `thoroughly`; those without a sum must be what their names say."""
        for name, content in self.files.items():
            path = folder / name
            if path.is_symlink():
                return f"{name} is a link"
            if not path.is_file():
                return f"{name} is missing"
            size = path.stat().st_size
            if size != content.size:
                return f"{name} has {size} bytes, and {content.size} were written"
        for name, content in self.files.items() if thoroughly else ():
            if content.sha256 is None:
                fault = fault_of_form(folder / name)
                if fault is not None:
                    return fault
            elif _sum(folder / name) != content.sha256:
                return f"{name} has another SHA-256 than when it was written"
        return None


def _content(entry: tuple[str, Any]) -> tuple[str, Content]:
    name, told = entry
    inside = PurePosixPath(name)
    if not inside.parts or inside.is_absolute() or ".." in inside.parts or "\\" in name or "\0" in name:
        raise ValueError(f"{name!r} is no name of a file inside")
    sha256 = told.get("sha256")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(f"{name}: {sha256!r} is no SHA-256")
    return name, Content(_whole(told.get("size", 0)), sha256)


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no number of steps or bytes")
    return value


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _settled_sum(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    if os.name == "nt":
        return  # where folders cannot be opened
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
