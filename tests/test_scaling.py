"""The model of how training scales, on figures that are worked out by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

FOLDER = str(Path(__file__).parents[1] / "scripts" / "benchmarks")


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(FOLDER)
    import scaling

    yield scaling
    sys.modules.pop("scaling")


@pytest.fixture
def setting(scaling: Any) -> Any:
    """100 bytes of gradients, 10 bytes a second inside a machine and 1 between two."""
    return scaling.Setting(
        student_step=2.0,
        teacher_forward=1.0,
        rows=4,
        parameters=25,
        gpus_per_machine=2,
        inside=10.0,
        network=1.0,
        latency=0.5,
        store=100.0,
        text_row=1.0,
        cache_row=9.0,
        overlap=0.5,
    )


@pytest.mark.parametrize(
    ("processes", "compute", "exchange", "reading", "seconds", "bound"),
    [
        (1, 3.0, 0.0, 0.04, 3.0, "student"),
        (2, 3.0, 2 * 0.5 * 100 / 10 + 2 * 0.5, 0.08, 11.0, "network"),
        (4, 3.0, 2 * 0.75 * 100 / 1 + 6 * 0.5, 0.16, 153.0, "network"),
    ],
)
def test_a_step_of_so_many_processes(
    scaling: Any,
    setting: Any,
    processes: int,
    compute: float,
    exchange: float,
    reading: float,
    seconds: float,
    bound: str,
) -> None:
    """Half of the exchange hides behind the backward pass, unless it is longer than all of the computation."""
    step = scaling.step_of(setting, processes)
    found = (step.compute, step.exchange, step.reading, step.seconds)
    assert found == pytest.approx((compute, exchange, reading, seconds))
    assert step.bound == bound
    assert step.rows_per_second == pytest.approx(4 * processes / seconds)


def test_what_moves_a_bound(scaling: Any, setting: Any) -> None:
    cached = scaling.step_of(replace(setting, cached=True), 1)
    assert (cached.compute, cached.reading, cached.bound) == (2.0, pytest.approx(0.4), "student")
    slow = scaling.step_of(replace(setting, cached=True, store=1.0), 1)
    assert (slow.seconds, slow.bound) == (40.0, "store")
    assert scaling.step_of(replace(setting, teacher_forward=5.0), 1).bound == "teacher"
    often = scaling.step_of(replace(setting, accumulation=8), 2)
    assert (often.seconds, often.bound) == (24.0 + 0.5 * 11.0, "student")
    shards = scaling.step_of(replace(setting, sharded=True), 2)
    assert shards.exchange == pytest.approx(2 * 0.5 * 150 / 10 + 1.0)


def test_processes_that_share_cores(scaling: Any, setting: Any) -> None:
    shared = replace(setting, cores=2, inside=1e9, network=1e9, latency=0.0)
    assert [scaling.step_of(shared, p).compute for p in (1, 2, 4)] == [3.0, 3.0, 6.0]
    assert "| 4 | " in scaling.table(shared, [1, 4])


def test_what_the_model_says_beside_what_was_measured(scaling: Any) -> None:
    """Two processes have a core each, and exchange 100 bytes in a second; four share the two, and half as fast each
    exchanges 150."""
    one = {"step": 3.0, "cpu": 3.0, "student_step": 2.0, "teacher_forward": 1.0, "rows": 4, "parameters": 25}
    two = {"step": 4.0, "cpu": 3.5, "network": 100.0, "latency": 0.0}
    four = {**two, "step": 15.0}
    lines = scaling.checked({"cores": 2, "runs": {"1": one, "2": two, "4": four}}).splitlines()[2:]
    assert lines == [
        "| 1 | 3000.0 ms | 3000.0 ms | 1.00 | 3000.0 ms |",
        "| 2 | 4000.0 ms | 4000.0 ms | 1.00 | 3500.0 ms |",
        "| 4 | 15000.0 ms | 9000.0 ms | 0.60 | 3500.0 ms |",
    ]
