"""Accuracy against time: which models no other one beats at both, as a table, a picture and plain values."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_distill.evaluation import figures
from hf_distill.evaluation.report import write_whole
from hf_distill.evaluation.summary import RunSummary, table
from hf_distill.search.points import Point

logger = logging.getLogger(__name__)

FILE_NAME, PICTURE = "auto.json", "auto.png"


def on_front(points: Sequence[Point], metric: str) -> list[bool]:
    """Whether no other point is at least as good and as fast, and better at one of both. Times are shares of the
    teacher's, which was timed around each."""
    costs = [(_share(point), -point.summary.metrics[metric]) for point in points]
    return [
        not any(all(a <= b for a, b in zip(other, cost, strict=True)) and other != cost for other in costs)
        for cost in costs
    ]


def labelled(points: Sequence[Point], metric: str) -> list[RunSummary]:
    """The points, fastest first, named with their share of the teacher's time; those of the front have a star."""
    ordered = sorted(zip(points, on_front(points, metric), strict=True), key=lambda each: _share(each[0]))
    return [
        dataclasses.replace(point.summary, name=f"{point.summary.name}, {_share(point):.2f}x{' *' if is_on else ''}")
        for point, is_on in ordered
    ]


def front_table(points: Sequence[Point], metric: str) -> str:
    """The points as a table, with what the marks mean."""
    meaning = "x: of the teacher's time in float32, measured around each. *: no other one is as good and as fast."
    return f"{table(labelled(points, metric), metric)}\n{meaning}"


def write(folder: Path, points: Sequence[Point], metric: str, report: Mapping[str, Any]) -> list[Path]:
    """Writes `auto.json`, the report with the points, and `auto.png`, where matplotlib is installed; the paths."""
    plain = [
        {**dataclasses.asdict(point.summary), "latency_share": _share(point), "on_front": is_on}
        for point, is_on in zip(points, on_front(points, metric), strict=True)
    ]
    text = json.dumps({**report, "metric": metric, "points": plain}, indent=2) + "\n"
    written = [write_whole(folder / FILE_NAME, text.encode("utf-8"))]
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning('no picture is drawn: matplotlib is not installed (pip install "hf_distill[report]").')
        return written
    picture = figures.accuracy_latency(labelled(points, metric), metric)
    return written if picture is None else [*written, write_whole(folder / PICTURE, picture)]


def _share(point: Point) -> float:
    return point.cost.amounts()["latency_share"]
