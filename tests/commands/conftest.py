"""Tiny models and files for command lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_distill.evaluation.latency import Latency
from hf_distill.runs import measuring, results
from tests import tiny_runs


@pytest.fixture(autouse=True)
def _no_pictures_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher` (two classes), `nli` (three), `score` (one score), `base` (no head), and the files `sst2`, `mnli`."""
    folder = tmp_path_factory.mktemp("commands")
    tiny_runs.save_teacher(folder / "teacher")
    tiny_runs.save_teacher(folder / "nli", labels=("ENTAILMENT", "NEUTRAL", "CONTRADICTION"))
    tiny_runs.save_teacher(folder / "score", labels=None)
    tiny_runs.save_base(folder / "base")
    tiny_runs.write_sst2(folder / "sst2")
    tiny_runs.write_mnli(folder / "mnli")
    return folder
