"""The report of a run, or of many: tables, pictures, and one self-contained web page."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_distill import writing
from hf_distill.errors import DistillationError
from hf_distill.evaluation.findings import FILE_NAME, Findings
from hf_distill.evaluation.page import Chapter, Part, page
from hf_distill.evaluation.sections import CURVES, OF_ONE_RUN, PROGRESS, TRADE_OFFS, of_findings, pictures
from hf_distill.evaluation.summary import RunSummary, cells, header, markdown_table, notes, one_line, table

__all__ = ["Reported", "RunSummary", "markdown_table", "table", "write_comparison", "write_findings", "write_report"]

FOLDER = "report"
MOST_SHOWN = 24
"""Runs of a comparison that are shown one by one; each has a page of its own, too."""


@dataclass(frozen=True)
class Reported:
    """A finished run: its models, teacher first, the metric, what stands below the table, and what else is shown.

    `rows` tells the rows that were evaluated from others; where it is empty, the first of the notes does.
    """

    name: str
    runs: Sequence[RunSummary]
    metric: str
    notes: Sequence[str] = ()
    findings: Findings | None = None
    rows: str = ""


def write_report(
    output_dir: str | os.PathLike[str],
    runs: Sequence[RunSummary],
    metric: str,
    findings: Findings | None = None,
    remarks: Sequence[str] = (),
) -> list[Path]:
    """Writes `report/*.png` and `report.html`, and returns the paths written.

    A picture that would be empty (no history, no latency) is left out, and so is what `findings` do not have;
    `remarks` stand below the table. The page holds the pictures and refers to nothing outside it. Everything is drawn
    before the first file is written, and each appears whole or not at all.

    Errors: DistillationError for no runs, a run that lacks the metric, or if matplotlib or jinja2 is missing.
    """
    rows = cells(runs, metric)
    parts = [*pictures(runs, metric, OF_ONE_RUN), *of_findings(findings)]
    chapter = Chapter("", header(metric), rows, [*remarks, *notes(runs)], parts)
    return _written(Path(output_dir), f"Distillation report: {one_line(metric)}", [chapter])


def write_comparison(output_dir: str | os.PathLike[str], reported: Sequence[Reported]) -> list[Path]:
    """Writes one page on many runs, `report.html`, and its pictures, and returns the paths written.

    Runs on the same rows stand in one table and in the same pictures: the metric against latency, size and training
    time. Below, each of them can be opened, with its curves and findings; of more than 24 the first 24.

    Errors: as `write_report`.
    """
    groups: dict[tuple[str, str], list[Reported]] = {}
    for each in reported:
        groups.setdefault((each.metric, each.rows or "".join(each.notes[:1])), []).append(each)
    alone = len(groups) == 1
    chapters = [_compared(group, "" if alone else str(number)) for number, group in enumerate(groups.values(), 1)]
    return _written(Path(output_dir), f"Distillation report: {len(reported):,} runs", chapters)


def write_findings(output_dir: str | os.PathLike[str], findings: Findings) -> Path:
    """Writes what a report is drawn from, so that `Findings.read` gives it again."""
    return write_whole(Path(output_dir) / FOLDER / FILE_NAME, findings.model_dump_json().encode("utf-8"))


def _compared(group: Sequence[Reported], number: str) -> Chapter:
    """A chapter on runs on the same rows; with a `number` it has a heading, and file names of its own."""
    metric, runs = group[0].metric, side_by_side(group)
    parts = pictures(runs, metric, {**TRADE_OFFS, **PROGRESS})
    if number:
        parts = [replace(part, file=part.file.replace(".png", f"_{number}.png")) for part in parts]
    remarks = list(dict.fromkeys(note for each in group for note in each.notes[:1]))
    if len(group) > MOST_SHOWN:
        remarks.append(f"The first {MOST_SHOWN} of {len(group)} runs can be opened below.")
    return Chapter(
        f"{number}. {one_line(metric)}" if number else "",
        header(metric),
        cells(runs, metric),
        [*remarks, *notes(runs)],
        parts,
        [_folded(each) for each in group[:MOST_SHOWN]],
    )


def _folded(each: Reported) -> Chapter:
    parts = [*pictures(each.runs, each.metric, CURVES), *of_findings(each.findings)]
    return Chapter(one_line(each.name), header(each.metric), cells(each.runs, each.metric), each.notes[1:], parts)


def side_by_side(group: Iterable[Reported]) -> list[RunSummary]:
    """The models of several runs by the runs' names. A teacher or control that several runs have in common, with the
    same metrics, is there once."""
    found: list[RunSummary] = []
    shared: set[tuple[object, ...]] = set()
    for each in group:
        for run in each.runs:
            same = (run.role, tuple(run.metrics.items()), run.parameters, run.size_bytes)
            if run.role == "student" or same not in shared:
                found.append(replace(run, name=each.name))
            shared.add(same)
    alone = {role: sum(run.role == role for run in found) == 1 for role in ("teacher", "control")}
    return [replace(run, name=run.role) if alone.get(run.role) else run for run in found]


def _written(folder: Path, title: str, chapters: Sequence[Chapter]) -> list[Path]:
    text = page(title, chapters)
    drawn: list[Part] = [part for chapter in chapters for part in chapter.parts if part.png]
    written = [write_whole(folder / FOLDER / part.file, part.png) for part in drawn]
    return [*written, write_whole(folder / "report.html", text.encode("utf-8"))]


def write_whole(path: Path, content: bytes) -> Path:
    """As `hf_distill.writing.write_whole`; the folder is made. Raises: `DistillationError` where the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writing.write_whole(path, content)
    except OSError as error:
        raise DistillationError(f"{path} cannot be written: {error.strerror or error}.") from error
    return path
