"""The file a report is drawn from: read as it was written, and refused where it is none of ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hf_distill.errors import DistillationError
from hf_distill.evaluation import findings
from hf_distill.evaluation.findings import Findings
from hf_distill.evaluation.report import write_findings
from tests import reports


def test_findings_are_read_as_they_were_written(tmp_path: Path) -> None:
    for found in (reports.findings(("a", "b", "c")), Findings()):
        assert Findings.read(write_findings(tmp_path, found)) == found
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == ["report/data.json"]
    assert Findings.read(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version: Input should be 1.*remove it to draw the rest"),
        ({"more": 1}, "more: Extra inputs"),
        ({"likeness": {"cka": [[1.0, 0.5], [0.5]], "tokens": 9}}, "expected 2 rows of 2 each"),
        ({"likeness": {"cka": [[1.5]], "tokens": 9}}, "likeness.cka.0.0: .*less than or equal to 1"),
        ({"confusion": {"classes": ["a", "b"], "counts": {"teacher": [[1, 2]]}}}, "a table of 1 rows"),
        ({"confusion": {"classes": ["a", "b"], "counts": {"cat": []}}}, "confusion.counts.cat"),
        ({"reliability": {"student": {"counts": [1], "confidence": [], "accuracy": [1], "error": 0}}}, r"\[1, 0, 1\]"),
        ({"scores": {"truth": [1.0], "found": {"student": []}}}, "0 of the student for 1 items"),
        ({"scores": {"truth": [], "found": {"student": []}}}, "scores.truth: .*at least 1 item"),
        ({"scores": {"truth": [1.0], "found": {}}}, "scores.found: .*at least 1 item"),
        ({"scores": {"truth": [1.7e308], "found": {"student": [-1.7e308]}}}, "scores.truth.0: .*less than or equal"),
        ({"likeness": {"cka": [[]], "tokens": 9}}, "likeness.cka.0: .*at least 1 item"),
        ({"attention": {"tokens": ["a"], "pairs": []}}, "attention.pairs: .*at least 1 item"),
        ({"confusion": {"classes": ["a", "b"], "counts": {}}}, "confusion.counts: .*at least 1 item"),
        (
            {"confusion": {"classes": ["a", "b"], "counts": {"student": [[10**30, 1]] * 2}}},
            "less than 9007199254740992",
        ),
        ({"examples": [{"text": "x" * 401, "truth": "", "teacher": "", "student": ""}]}, "at most 400 characters"),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps(change), encoding="utf-8")
    with pytest.raises(DistillationError, match=message):
        Findings.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"likeness": {"cka": [[NaN]], "tokens": 1}}', "\x00"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DistillationError, match=r"data\.json cannot be drawn"):
        Findings.read(path)


def test_a_file_beyond_all_measure_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_findings(tmp_path, reports.findings())
    monkeypatch.setattr(findings, "LARGEST", 100)
    with pytest.raises(DistillationError, match="100 at most are read"):
        Findings.read(path)
