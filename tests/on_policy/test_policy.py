"""Who writes the texts of a step."""

from __future__ import annotations

from typing import Any

import pytest

from hf_distill import DistillationError, OnPolicy


@pytest.mark.parametrize(
    ("drawn", "share", "source"),
    [
        (0.0, 0.0, "data"),
        (0.2, 0.25, "student"),
        (0.5, 0.5, "data"),
        (0.7, 0.75, "student"),
        (0.99, 1.0, "student"),
        (0.999999, 1.0, "student"),
    ],
)
def test_golden_draws(drawn: float, share: float, source: str) -> None:
    assert OnPolicy(student_share=share).source_at(drawn) == source


def test_the_teacher_has_what_follows_the_students_share() -> None:
    policy = OnPolicy(student_share=0.3, teacher_share=0.5)
    found = [policy.source_at(drawn) for drawn in (0.0, 0.29, 0.3, 0.79, 0.8, 0.99)]
    assert found == ["student", "student", "teacher", "teacher", "data", "data"]


def test_draws_follow_from_seed_and_step() -> None:
    policy = OnPolicy(student_share=0.25, teacher_share=0.5)
    drawn = [policy.source(7, step) for step in range(2000)]
    assert [policy.source(7, step) for step in (1999, 3, 1000)] == [drawn[1999], drawn[3], drawn[1000]]
    assert [policy.source(8, step) for step in range(2000)] != drawn
    assert drawn.count("student") / 2000 == pytest.approx(0.25, abs=0.03)  # three deviations
    assert drawn.count("teacher") / 2000 == pytest.approx(0.5, abs=0.035)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"student_share": -0.1}, "student_share is -0.1"),
        ({"student_share": 1.5}, "student_share is 1.5"),
        ({"student_share": True}, "student_share is True"),
        ({"student_share": float("nan")}, "student_share is nan"),
        ({"student_share": 0.6, "teacher_share": 0.5}, "student_share + teacher_share is 1.1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"prompt_tokens": 0}, "prompt_tokens is 0"),
        ({"rows_at_once": 2.5}, "rows_at_once is 2.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], found: str) -> None:
    with pytest.raises(DistillationError, match=f"on_policy: {found}".replace("+", r"\+")):
        OnPolicy(**settings)
