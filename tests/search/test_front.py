"""Which points are on the front, and what is written of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import pytest

from hf_distill.evaluation.summary import RunSummary
from hf_distill.search import front
from hf_distill.search.points import Point, Points
from tests.search.test_budget import cost


def point(name: str, ms: float, accuracy: float, role: Literal["teacher", "student", "control"] = "student") -> Point:
    costs = cost(ms, teacher_ms=10.0)
    summary = RunSummary(
        name=name, role=role, metrics={"accuracy": accuracy}, parameters=7, size_bytes=28, latency=costs.latency
    )
    return Point(summary, costs)


POINTS = [
    point("slow", 9.0, 0.9, "teacher"),
    point("slower and worse", 9.5, 0.8),
    point("fast", 2.0, 0.7),
    point("as fast and worse", 2.0, 0.6, "control"),
    point("between", 5.0, 0.9),
    point("the same", 5.0, 0.9),
]


def test_points_that_no_other_one_beats() -> None:
    assert front.on_front(POINTS, "accuracy") == [False, False, True, False, True, True]


def test_table_is_fastest_first_with_stars_and_shares() -> None:
    lines = front.front_table(POINTS, "accuracy").splitlines()
    starts = ["fast, 0.20x * (student)", "as fast and worse, 0.20x (control)", "between, 0.50x * (student)"]
    assert [line[: len(start)] for line, start in zip(lines[2:5], starts, strict=True)] == starts
    assert lines[-1].startswith("x: of the teacher's time")


@pytest.mark.draws
def test_everything_is_written(tmp_path: Path) -> None:
    written = front.write(tmp_path, POINTS, "accuracy", {"fits": True})
    assert [path.name for path in written] == ["auto.json", "auto.png"]
    found = json.loads(written[0].read_text(encoding="utf-8"))
    assert (found["fits"], found["metric"]) == (True, "accuracy")
    assert [(each["name"], each["latency_share"], each["on_front"]) for each in found["points"][:3]] == [
        ("slow", 0.9, False),
        ("slower and worse", 0.95, False),
        ("fast", 0.2, True),
    ]
    assert written[1].read_bytes().startswith(b"\x89PNG")


def test_points_that_are_put_down_are_not_measured_again(tmp_path: Path) -> None:
    kept = {"student: fast": asdict(POINTS[2])}
    (tmp_path / "points.json").write_text(json.dumps(kept), encoding="utf-8")

    def never() -> None:
        pytest.fail("it is known")

    points = Points(tmp_path, None, never)  # type: ignore[arg-type]
    assert points.point("fast", "student", None, never) == POINTS[2]  # type: ignore[arg-type]
