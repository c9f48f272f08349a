"""A minute of damage for each reader of files of strangers; `python -m tests.slow.fuzzing` goes on for longer."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest

from tests.slow.fuzzing import READERS, fuzz, other_values


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_minute_of_damage_is_read_or_refused(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    # Its warnings quote damaged values, and no report with half a character gets from a process of xdist to the other.
    caplog.set_level(logging.CRITICAL, logger="transformers")
    found = fuzz(name, tmp_path, seconds=60.0)
    assert found["read"] > 0
    assert found["refused"] > 0


def test_an_example_is_made_again_by_its_number() -> None:
    """Whatever was made before it: values that are put in place stay as they were."""
    data = {"a": [1, {"b": None}], "c": {"d": "e"}}
    first, again = ([json.dumps(other_values(data, random.Random(n))) for n in range(300)] for _ in range(2))
    assert first == again
