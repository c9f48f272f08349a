"""Where each implementation's Python is, and the making of the peers' virtual environments."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable
from pathlib import Path

from peers.catalogue import CATALOGUE, Implementation


def python_of(implementation: Implementation, folder: Path | None) -> Path:
    """The interpreter that runs an implementation: this one, or that of its environment in `folder`."""
    if not implementation.requirements:
        return Path(sys.executable)
    if folder is None:
        raise SystemExit(f"{implementation.name} needs an environment of its own; give --environments FOLDER")
    found = folder / implementation.name / "bin" / "python"
    if not found.exists():
        raise SystemExit(f"{found} is missing; make it by setup_peers.py --folder {folder}")
    return found


def make(implementation: Implementation, folder: Path, pip_arguments: Iterable[str]) -> None:
    """A virtual environment that holds the toolkit, and takes torch, transformers and all else from this one.

    Shared libraries keep the comparison to the toolkits themselves, and the disk free; what a toolkit pins otherwise
    (bertdistiller asks for transformers below 5) is not obeyed.
    """
    place = folder / implementation.name
    venv.EnvBuilder(with_pip=False, clear=True).create(place)
    python = place / "bin" / "python"
    shared = sysconfig.get_paths()["purelib"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    path_file = place / "lib" / version / "site-packages" / "shared.pth"
    path_file.write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*command, *pip_arguments, *implementation.requirements], check=True)


def with_requirements() -> list[Implementation]:
    return [made for made in CATALOGUE.values() if made.requirements]
