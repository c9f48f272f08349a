"""The folder of a run: what lies where, which run it belongs to, and files that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_distill.errors import DistillationError
from hf_distill.hub.folder import FOLDERS, OBJECTIVE_STATE, PUBLISHED, is_published
from hf_distill.hub.record import write_whole
from hf_distill.locks import claimed
from hf_distill.ranks import is_main_process
from hf_distill.recipe import Recipe

MARK = "stage.json"
"""Written into a stage's folder last: the stage is finished."""

TRAINER_STATE = "trainer_state.json"
ALL_RESULTS = "all_results.json"
MOST_BYTES = 2**28
_SHOWN = 12


class RunFolder:
    """`output_dir`: the finished student at the top, and below `stages/` a folder for each training run.

    `stages/run.json` says which recipe and which data the folder belongs to, and which commits of data sets on the Hub
    were read. It stays at home: it may hold paths.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser()
        self.stages = self.path / "stages"
        self._identity = self.stages / "run.json"
        self._results = self.stages / "results.json"

    def stage(self, number: int, name: str) -> Path:
        """The folder of a stage; number 0 is the teacher's training."""
        return self.stages / f"{number:02d}-{name}"

    @property
    def control(self) -> Path:
        """The folder of the student that is trained on the labels alone."""
        return self.stages / "control"

    @property
    def is_run(self) -> bool:
        """Whether a run has begun here, which may have been broken off."""
        return self._identity.exists()

    def identity(self) -> dict[str, Any] | None:
        """The `recipe` of the run that the folder holds, as plain values, and the SHA-256 of its `sources` by split;
        None where it holds no run."""
        return read_json(self._identity)

    def recipe(self) -> Recipe | None:
        """The recipe of the run that the folder holds, if it holds one."""
        identity = self.identity()
        return None if identity is None else Recipe.from_dict(identity.get("recipe", {}), str(self._identity))

    def pinned(self, recipe: Recipe) -> Recipe:
        """The recipe with the commits that the run which the folder holds reads, where a branch may have moved since;
        the recipe itself where its data are others."""
        before, commits = self.recipe(), (self.identity() or {}).get("commits")
        if before is None or not commits or before.to_dict().get("data") != recipe.to_dict().get("data"):
            return recipe
        return recipe.override(commits)

    def check(self, recipe: Recipe, sources: Mapping[str, str]) -> None:
        """Refuses a folder that belongs to something else: another recipe, other data, or no run at all.

        Raises: `DistillationError` that lists what differs.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DistillationError(f"{self.path} is a file; give a folder as output_dir.")
        identity, before = self.identity(), self.recipe()
        if identity is None or before is None:
            self._refuse_foreign()
            return
        # Read anew, as the keys that a later version added stand there by their defaults then.
        differing = differences(before.to_dict(), recipe.to_dict())
        known = identity.get("sources", {})
        differing += [
            f"data of {split}: another file than before"
            for split in sources
            if known.get(split, sources[split]) != sources[split]
        ]
        if differing:
            more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            raise DistillationError(
                f"{self.path} holds a run of another recipe: {'; '.join(differing[:_SHOWN])}{more}. "
                "Choose another output_dir, or remove this one."
            )

    def _refuse_foreign(self) -> None:
        found = sorted(entry.name for entry in self.path.iterdir()) if self.path.is_dir() else []
        if self.stages.is_dir() and all(entry.name.startswith(".") for entry in self.stages.iterdir()):
            found.remove(self.stages.name)  # a run was broken off while it claimed the folder
        ours = [
            name
            for name in found
            if is_published(name) or name in (OBJECTIVE_STATE, TRAINER_STATE, "stages", "report")
        ]
        if ours:
            raise DistillationError(
                f"{self.path} already holds {', '.join(ours[:5])}, and not from a run that could be gone on with. "
                "Choose another output_dir, so that nothing is overwritten."
            )

    @contextmanager
    def claimed(
        self, recipe: Recipe, sources: Mapping[str, str], commits: Mapping[str, str] | None = None
    ) -> Iterator[None]:
        """Makes the folder and keeps other runs out of it; the main process alone. `commits` are kept for `pinned`.

        Raises: `DistillationError` if another process works in it, or it cannot be made.
        """
        if not is_main_process():
            yield
            return
        at_work = f"another process is at work in {self.path}; wait for it, or choose another output_dir."
        with claimed(self.stages, DistillationError, at_work, f"output_dir {self.path}"):
            if not self._identity.exists():
                told = {"recipe": recipe.to_dict(), "sources": dict(sources), "commits": dict(commits or {})}
                write_json(self._identity, told)
            yield

    def results(self) -> dict[str, Any] | None:
        """What `keep_results` kept."""
        return read_json(self._results)

    def keep_results(self, results: Mapping[str, Any]) -> None:
        """Puts the results of the evaluation down, so that a finished run can show them."""
        write_json(self._results, results)

    def take_student(self, stage: Path) -> None:
        """Copies the student of a finished stage to the top, with what the objectives learned and the trainer's
        state.
        """
        copied = [name for name in PUBLISHED if name not in ("README.md", "distillation.json")]
        others = (OBJECTIVE_STATE, TRAINER_STATE)
        inside = [path for name in FOLDERS for path in stage.glob(f"{name}/*")]
        for path in sorted([*stage.iterdir(), *inside]):
            name = path.relative_to(stage).as_posix()
            if path.is_file() and (is_published(name, tuple(copied)) or name in others):
                (self.path / name).parent.mkdir(exist_ok=True)
                copy_whole(path, self.path / name)


def differences(before: Any, now: Any, key: str = "") -> list[str]:
    """Where two plain values differ: `stages[0].arguments.learning_rate: 0.1, was 0.2`."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(name for name in now if name not in before)]
        found = [differences(before.get(name), now.get(name), f"{key}.{name}".removeprefix(".")) for name in keys]
        return [line for lines in found for line in lines]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        found = [differences(a, b, f"{key}[{i}]") for i, (a, b) in enumerate(zip(before, now, strict=True))]
        return [line for lines in found for line in lines]
    return [] if before == now else [f"{key}: {_brief(now)}, was {_brief(before)}"]


def _brief(value: Any) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file of ours, None where there is none.

    Raises: `DistillationError` if the file is damaged, or too large.
    """
    if not path.exists():
        return None
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DistillationError(f"{path} has more than {MOST_BYTES:,} bytes; no run writes as much into one file.")
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DistillationError(
            f"{path} cannot be read: {error}. Choose another output_dir, or remove this one."
        ) from error
    if not isinstance(found, dict):
        raise DistillationError(f"{path} holds no JSON object. Choose another output_dir, or remove this one.")
    return found


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON file whole or not at all."""
    write_whole(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def copy_whole(source: Path, target: Path) -> None:
    """Copies a file so that `target` holds its old content or all of the new one."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DistillationError(f"{target} cannot be written: {error.strerror or error}.") from error
