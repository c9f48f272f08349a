"""Texts that are empty, endless, of other scripts or no characters at all, through a whole run: trained on, evaluated
and predicted row by row, or refused with file and line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from hf_distill.errors import DataError
from hf_distill.evaluation.latency import Latency
from hf_distill.runs import measuring, results, run
from tests import tiny_runs

TEXTS = {
    "empty": "",
    "blank": " \t\r\n",
    "zero-width": "\u200b\u200d",
    "byte order mark": "\ufeff",
    "emoji": "good 😀👩‍👩‍👧",
    "right to left": "\u202egood film\u202c שלום",
    "NUL": "bad \0 film",
    "no character": "bad \uffff\ufffe",
    "combining": "good" + "\u0301" * 400,
    "100,000 characters": "good " * 20_000,
    "one word of 100,000 characters": "a" * 100_000,
}
SILENT = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True}


@pytest.fixture(autouse=True)
def _no_pictures_and_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.save_teacher(tmp_path_factory.mktemp("texts") / "teacher")


def recipe(teacher: Path, rows: Path) -> dict[str, Any]:
    objectives = [{"soft_targets": {}}, {"labels": {}}, {"hidden_mse": {"layer_map": "final"}}]
    files = dict.fromkeys(("train", "validation", "test"), str(rows))
    return {
        "schema": 1,
        "data": {"files": files, "text_columns": ["text"], "label_column": "label"},
        "max_length": 16,
        "teacher": {"model": str(teacher)},
        "student": {"from_layers": {"layers": 1}},
        "stages": [{"name": "distil", "objectives": objectives, "arguments": SILENT}],
    }


def written(folder: Path, texts: list[str]) -> Path:
    names = ("negative", "positive")
    return tiny_runs.write_jsonl(folder / "a.jsonl", [{"text": t, "label": names[i % 2]} for i, t in enumerate(texts)])


def test_a_run_reads_every_text_there_is(teacher: Path, tmp_path: Path) -> None:
    texts = [*TEXTS.values(), "a good film"]
    found = run(recipe(teacher, written(tmp_path, texts)), tmp_path / "out", predict=True)
    numbers = json.loads((tmp_path / "out" / "eval_results.json").read_text())
    assert numbers["eval_samples"] == numbers["test_samples"] == len(texts)
    assert all(math.isfinite(number) for number in numbers.values())
    [predictions] = found.predictions
    assert [line.split("\t")[0] for line in predictions.read_text().splitlines()[1:]] == list(
        map(str, range(len(texts)))
    )


def test_half_a_surrogate_pair_is_named_with_file_and_line(teacher: Path, tmp_path: Path) -> None:
    path = written(tmp_path, ["good", "bad \ud83d", "bad"])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2, column 'text': .*surrogates not allowed"):
        run(recipe(teacher, path), tmp_path / "out")
    assert not (tmp_path / "out").exists()
