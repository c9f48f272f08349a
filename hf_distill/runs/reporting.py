"""The report of finished runs, drawn again from what they left: no model is loaded."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from hf_distill.errors import DistillationError
from hf_distill.evaluation.findings import FILE_NAME, Findings
from hf_distill.evaluation.report import FOLDER, Reported, write_comparison, write_report
from hf_distill.runs.evaluated_rows import key_of
from hf_distill.runs.folder import RunFolder
from hf_distill.runs.results import RunResult

logger = logging.getLogger(__name__)

DEEPEST = 5
"""Folders below the given one in which runs are looked for."""


def draw_report(folder: str | os.PathLike[str]) -> list[Path]:
    """Writes `report.html` and `report/*.png` into a folder, of the run that it holds, or else of all the runs in
    folders below it, five levels deep, on one page; the paths written.

    Runs without results are left out with a message.

    Raises: `DistillationError` for no folder, one without a finished run, files that cannot be read, or if matplotlib
    or jinja2 is missing.
    """
    place = Path(folder).expanduser()
    if not place.is_dir():
        raise DistillationError(f"{place} is not a folder; give that of a run, or one with runs in it.")
    if _is_run(place):
        own = _reported(place, place.resolve().name)
        if own is None:
            raise DistillationError(
                f"{place} holds a run that is not finished, or whose models were not evaluated; run it again with the "
                "same recipe and folder, and it goes on where it stopped (--do_train --do_eval)."
            )
        return write_report(place, own.runs, own.metric, own.findings, own.notes)
    named = [(run, run.relative_to(place).as_posix()) for run in _runs_below(place)]
    found = [each for each in (_reported(run, name) for run, name in named) if each is not None]
    if not found:
        raise DistillationError(
            f"{place} holds no finished run, and neither do the folders in it; give the output_dir of a run, or a "
            "folder with several of these."
        )
    return write_comparison(place, found)


def _is_run(folder: Path) -> bool:
    return RunFolder(folder).stages.is_dir()


def _runs_below(folder: Path) -> Iterator[Path]:
    """The folders of runs, in the order of their names."""
    for path, folders, _ in os.walk(folder):
        here = Path(path)
        if here != folder and _is_run(here):
            folders.clear()
            yield here
        elif len(here.relative_to(folder).parts) >= DEEPEST:
            folders.clear()
        folders.sort()


def _reported(folder: Path, name: str) -> Reported | None:
    """What a run came to; None with a message where there are no results."""
    kept = RunFolder(folder).results()
    result = None if kept is None else RunResult.from_dict(folder, kept)
    if result is None or not result.runs:
        logger.warning("%s: no results, so it is left out: not finished, or its models were not evaluated.", folder)
        return None
    findings = Findings.read(folder / FOLDER / FILE_NAME)
    return Reported(name, result.runs, result.metric, result.notes, findings, key_of(RunFolder(folder), result))
