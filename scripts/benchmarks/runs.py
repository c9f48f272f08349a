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

from hf_distill.hub.record import WEIGHT_FILES, sha256_of_files

Run = dict[str, Any]


def settings_of(given: argparse.Namespace, *names: str) -> dict[str, Any]:
    """What a figure depends on beside arm and seed: teacher, data, the arguments of these names, device, threads, and
    versions."""
    teacher = Path(given.teacher)
    sums = sha256_of_files(teacher, (*WEIGHT_FILES, "config.json")) if teacher.is_dir() else str(teacher)
    return {
        "teacher": sums,
        "data": Path(given.dataset_dir).resolve().name,
        "device": torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu",
        "threads": torch.get_num_threads(),
        **{name: getattr(given, name) for name in names},
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


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
        else:
            self._write()  # what a benchmark keeps elsewhere before its first run is over belongs to these settings

    def missing(self, *choices: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
        """The values of `key` of runs that are not there yet: of all combinations of `choices`, which stand in the
        order of `key` and of which the last one turns slowest, so that a seed is whole before the next one begins."""
        done = {tuple(run[name] for name in self.key) for run in self.found}
        return (turned[::-1] for turned in product(*reversed(choices)) if turned[::-1] not in done)

    def add(self, run: Run) -> None:
        """Put a run into the file, which has its old content or all of the new one."""
        self.found.append(run)
        self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self.path.with_suffix(".part")
        whole.write_text(json.dumps({"settings": self.settings, "runs": self.found}, indent=1), encoding="utf-8")
        whole.replace(self.path)
