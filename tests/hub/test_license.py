"""The licence that a teacher's card states, read from a stranger's file."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from hf_distill.hub.license import license_of


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: cc-by-sa-4.0\n---\n# Teacher\n", "cc-by-sa-4.0"),
        ("---\nlanguage: en\n---\n", None),
        ("# No metadata, and license: mit\n", None),
        ("---\nlicense: [mit, apache-2.0]\n---\n", None),
        ("---\nlicense: '<script>'\n---\n", None),
        ("---\nlicense: |\n  mit\n  more\n---\n", None),
    ],
)
def test_it_is_read_from_the_card_in_a_folder(card: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(card, encoding="utf-8")
    assert license_of(tmp_path) == licence


def test_a_card_that_cannot_be_read_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: {{{\xff\n---\n")
    with caplog.at_level(logging.WARNING):
        assert license_of(tmp_path) is None
        assert license_of("someone/teacher-that-is-not-here") is None
    assert f"The licence of {tmp_path} is not known" in caplog.text
    assert "The licence of someone/teacher-that-is-not-here is not known, as its card cannot be read" in caplog.text


def test_where_there_is_no_card_there_is_nothing_to_warn_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert license_of(tmp_path) is None
        assert license_of("/no/such/folder") is None
    assert not caplog.records
