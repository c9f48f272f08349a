"""Limits and costs, by hand."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from hf_distill.errors import DistillationError
from hf_distill.evaluation.latency import Latency
from hf_distill.search import Budget
from hf_distill.search.budget import Cost, told


def cost(ms: float = 4.0, teacher_ms: float = 16.0, size_bytes: int = 30_000_000, params: int = 7_500_000) -> Cost:
    latency = Latency(ms, 0.9 * ms, 1.1 * ms, 100.0, 1, "cpu", 64)
    return Cost(latency=latency, teacher_ms=teacher_ms, size_bytes=size_bytes, params=params)


def test_amounts_are_in_the_units_of_a_budget() -> None:
    expected = {"latency_ms": 4.0, "latency_share": 0.25, "size_mb": 30.0, "params": 7_500_000.0}
    assert cost().amounts() == expected


@pytest.mark.parametrize(
    ("limits", "over"),
    [
        ({"latency_ms": 5.0}, 0.8),
        ({"latency_share": 0.2}, 1.25),
        ({"size_mb": 60.0, "latency_ms": 4.0}, 1.0),
        ({"params": 5_000_000, "size_mb": 300.0}, 1.5),
    ],
)
def test_overrun_is_of_the_limit_that_is_exceeded_most(limits: dict[str, float], over: float) -> None:
    assert Budget(**limits).overrun(cost().amounts()) == pytest.approx(over)


def test_headroom_is_of_time_alone() -> None:
    found = Budget(latency_ms=10.0, latency_share=0.5, size_mb=20.0, params=7).with_headroom()
    assert found.limits() == {
        "latency_ms": pytest.approx(9.5),
        "latency_share": pytest.approx(0.475),
        "size_mb": 20.0,
        "params": 7,
    }


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({}, "needs a limit: latency_ms, latency_share, size_mb, params"),
        ({"latency_ms": 0.0}, "latency_ms is 0.0; it must be a number above 0"),
        ({"size_mb": float("nan")}, "size_mb is nan"),
        ({"params": True}, "params is True"),
        ({"latency_share": "a quarter"}, "latency_share is 'a quarter'"),
    ],
)
def test_a_limit_that_is_none_is_refused(limits: dict[str, float], message: str) -> None:
    with pytest.raises(DistillationError, match=message):
        Budget(**limits)


def test_costs_survive_json() -> None:
    assert Cost.from_dict(asdict(cost())) == cost()


def test_amounts_are_told_with_their_units() -> None:
    assert told({"latency_ms": 4.2134, "size_mb": 69.8, "params": 17_450_000.0}) == (
        "4.21 ms for a sentence, 69.8 MB, 17,450,000 parameters"
    )
