"""The runs of a benchmark in a file: what stands there is not run again, nor beside runs with other settings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import torch
import transformers

Run = dict[str, Any]


def settings_of(given: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What a figure depends on beside arm and seed: the teacher, the arguments of these names, threads, versions."""
    named = {name: getattr(given, name) for name in names}
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"teacher": Path(given.teacher).name, "threads": torch.get_num_threads(), **named, **versions}


class Runs:
    """The runs in `path`, each a mapping in which the values of `key`, an arm and a seed, are its own."""

    def __init__(self, path: Path, settings: dict[str, Any], key: tuple[str, ...] = ("arm", "seed")) -> None:
        self.path, self.settings, self.key = path, settings, key
        self.found: list[Run] = []
        if path.exists():
            held = json.loads(path.read_text(encoding="utf-8"))
            if held["settings"] != settings:
                raise SystemExit(
                    f"{path} holds runs with the settings {held['settings']}; these have {settings}. Name another."
                )
            self.found = held["runs"]

    def missing(self, *choices: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """The values of `key` of runs that are not there yet: of all combinations of `choices`, which stand in the
        order of `key` and of which the last one turns slowest, so that a seed is whole before the next one begins."""
        done = {tuple(run[name] for name in self.key) for run in self.found}
        return (turned[::-1] for turned in product(*reversed(choices)) if turned[::-1] not in done)

    def add(self, run: Run) -> None:
        """Put a run into the file, which has its old content or all of the new one."""
        self.found.append(run)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps({"settings": self.settings, "runs": self.found}, indent=1), encoding="utf-8")
        whole.replace(self.path)
