"""The quick start as a newcomer runs it: no arguments, no network. It needs the extra `quickstart`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import pipeline

from hf_distill.commands.glue import main

pytestmark = [
    pytest.mark.slow,
]


def test_the_quick_start_prints_one_table_of_three(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown.count("accuracy [95 %]") == 1
    out = tmp_path / "outputs" / "quickstart"
    found = json.loads((out / "eval_results.json").read_text())
    assert found["test_samples"] == 1706
    assert found["test_accuracy"] > 0.7
    assert found["teacher_test_accuracy"] > 0.7
    assert found["test_agreement"] > 0.8
    names = ("losses", "accuracy_latency", "confusion", "reliability", "layers", "attention")
    assert {path.name for path in (out / "report").iterdir()} == {*(f"{name}.png" for name in names), "data.json"}
    classify = pipeline("text-classification", model=str(out))
    assert classify("a warm, funny and wonderful film")[0]["label"] == "positive"
