"""A finished run is given other forms, and its record and card tell of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_distill.commands.main import main
from hf_distill.hub.card import Card
from hf_distill.hub.folder import select
from hf_distill.hub.front_matter import check
from hf_distill.hub.onnx import OnnxModel
from hf_distill.hub.record import Record
from hf_distill.runs import run
from hf_distill.runs.exporting import export_run
from tests import tiny_runs

pytestmark = pytest.mark.slow

ARGUMENTS = {
    "per_device_train_batch_size": 8,
    "num_train_epochs": 20,
    "learning_rate": 5e-3,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    teacher = tiny_runs.save_teacher(home / "teacher", hidden=32, dropout=0.0)
    (teacher / "README.md").write_text("---\nlicense: mit\n---\n# The teacher\n")
    tiny_runs.write_sst2(home / "sst2", train=64, validation=80)
    run(
        {
            "schema": 1,
            "task": "sst2",
            "dataset_dir": str(home / "sst2"),
            "max_length": 16,
            "teacher": {"model": str(teacher)},
            "student": {"from_layers": {"layers": 1}},
            "stages": [{"name": "distil", "objectives": [{"labels": {}}], "arguments": ARGUMENTS}],
        },
        home / "out",
    )
    return home / "out"


def test_a_finished_run_tells_of_its_forms(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Record.read(finished)
    assert before.teacher is not None
    assert before.teacher.license == "mit"
    assert before.speeds["student"].sentences > 0
    found = export_run(finished, ["onnx", "onnx-int8"], least_agreement=0.9)
    assert list(found) == ["onnx/model.onnx", "onnx/model_int8.onnx"]
    record = Record.read(finished)
    assert record.exports == found
    assert record.model_copy(update={"exports": {}}) == before
    floats, codes = found.values()
    assert floats.agreement == 1.0
    assert floats.largest_difference < 1e-4
    assert floats.original_accuracy == codes.original_accuracy == before.metrics["eval_accuracy"]
    assert floats.original_accuracy > 0.9
    for each in (floats, codes):
        assert (each.rows, each.texts) == (80, "sst2, validation")
        assert each.bytes == (finished / "onnx" / f"model{'' if each is floats else '_int8'}.onnx").stat().st_size
        assert each.speed is not None
        assert each.original_speed is not None
        assert each.speed.milliseconds_per_sentence > 0
    card = (finished / "README.md").read_text(encoding="utf-8")
    check(card)
    assert card == str(Card.from_record(record))
    assert "| `onnx/model.onnx` |" in card
    assert set(found) <= set(select(finished))
    monkeypatch.chdir(finished)
    shown: list[object] = []
    snippet = re.findall(r"```python\n(from transformers.*?)\n```", card, re.DOTALL)[0]
    exec(snippet, {"print": shown.append})
    assert shown[0][0]["label"] in ("negative", "positive")


def test_the_command_writes_a_folder_that_runs_alone(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = {
        "model": finished,
        "output_dir": tmp_path / "graph",
        "task_name": "sst2",
        "dataset_dir": finished.parent / "sst2",
        "format": "onnx",
    }
    assert main(["export", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]) == 0
    assert "the same answer on 1.0000 of 80 rows, accuracy" in capsys.readouterr().out
    names = {path.name for path in (tmp_path / "graph").iterdir()}
    assert {"model.onnx", "config.json", "tokenizer.json", "export.json"} <= names
    assert json.loads((tmp_path / "graph" / "export.json").read_text())["scheme"] == "onnx"
    inputs = AutoTokenizer.from_pretrained(tmp_path / "graph")("a lovely film", return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(finished)
    with torch.inference_mode():
        expected = model(**inputs).logits
    torch.testing.assert_close(OnnxModel(tmp_path / "graph" / "model.onnx")(**inputs).logits, expected)
    assert main(["export", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]) == 2
    assert "exists; give a folder that does not" in capsys.readouterr().err
