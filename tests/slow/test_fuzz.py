"""A minute of damage for each reader of files of strangers; `python -m tests.slow.fuzzing` goes on for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slow.fuzzing import READERS, fuzz


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_minute_of_damage_is_read_or_refused(name: str, tmp_path: Path) -> None:
    found = fuzz(name, tmp_path, seconds=60.0)
    assert found["read"] > 0
    assert found["refused"] > 0
