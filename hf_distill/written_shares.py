"""Which share of the steps of on-policy training is on texts that models write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STUDENT_SHARE, TEACHER_SHARE = 0.5, 0.0
"""What is written by the student, and by the teacher, where settings do not say."""


def writes_all(settings: Mapping[str, Any]) -> bool:
    """Whether these settings, as plain values of anybody, have every text written, so that no step is on those of the
    data."""
    shares = [settings.get("student_share", STUDENT_SHARE), settings.get("teacher_share", TEACHER_SHARE)]
    if not all(isinstance(share, int | float) for share in shares):
        return False
    written: float = sum(min(max(share, 0), 1) for share in shares)
    return written >= 1
