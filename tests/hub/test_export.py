"""Exports in 8 bits: what is written, what is compared, and what never appears."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hf_distill.commands import export as command
from hf_distill.commands.main import main
from hf_distill.errors import DataError, DistillationError
from hf_distill.hub import export
from hf_distill.hub.export import SCHEMES, export_quantized
from tests import tiny, tiny_runs

AUTO = "AutoModelForSequenceClassification"

with_torchao = pytest.mark.slow
"""They need the extra `quant`, which transformers would import in every other test as well."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.save_teacher(tmp_path_factory.mktemp("home") / "student", hidden=64, dropout=0.0)


def batches(number: int = 70, labels: bool = True, padded: bool = True) -> list[dict[str, Tensor]]:
    made = tiny.rows("single_label", number, shortest=3 if padded else 6, longest=9 if padded else 6)
    words = len(tiny_runs.WORDS)
    for row in made:
        row["input_ids"] = [token % (words - 5) + 5 for token in row["input_ids"]]
        row["labels"] %= 2
    found = [tiny.Pad()(made[first : first + 10]) for first in range(0, number, 10)]
    return found if labels else [{k: v for k, v in batch.items() if k != "labels"} for batch in found]


@with_torchao
@pytest.mark.parametrize("scheme", ["int8_dynamic", "int8_weight"])
def test_an_export_loads_anew_and_answers_alike(scheme: str, model: Path, tmp_path: Path) -> None:
    target = tmp_path / "int8"
    found = export_quantized(model, target, batches(), auto_class=AUTO, scheme=scheme, least_agreement=0.9)
    assert found == export.Exported(**json.loads((target / "export.json").read_text()))
    assert found.rows == 70
    assert found.bytes < found.original_bytes
    original, loaded = (AutoModelForSequenceClassification.from_pretrained(path).eval() for path in (model, target))
    answers = []
    with torch.inference_mode():
        for each in (original, loaded):
            answers.append(torch.cat([each(**batch).logits for batch in batches(labels=False)]))
    assert found.largest_difference == pytest.approx(float((answers[0] - answers[1]).abs().max()), abs=1e-6)
    assert 0 < found.largest_difference < 0.2
    assert found.agreement == pytest.approx(float((answers[0].argmax(-1) == answers[1].argmax(-1)).double().mean()))
    labels = torch.cat([batch["labels"] for batch in batches()])
    assert found.original_accuracy == pytest.approx(float((answers[0].argmax(-1) == labels).float().mean()))
    assert found.accuracy == pytest.approx(float((answers[1].argmax(-1) == labels).float().mean()))
    assert AutoTokenizer.from_pretrained(target)("good film")["input_ids"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["int8"]


@with_torchao
def test_modules_may_stay_in_floats(model: Path, tmp_path: Path) -> None:
    export_quantized(
        model, tmp_path / "int8", batches(labels=False), auto_class=AUTO, keep=["classifier"], least_agreement=0.5
    )
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "int8")
    kept = AutoModelForSequenceClassification.from_pretrained(model)
    assert type(loaded.classifier.weight.data) is Tensor
    assert torch.equal(loaded.classifier.weight, kept.classifier.weight)
    assert type(loaded.bert.pooler.dense.weight.data) is not Tensor
    assert json.loads((tmp_path / "int8" / "export.json").read_text())["accuracy"] is None


@with_torchao
def test_an_export_that_answers_otherwise_is_not_written(model: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DistillationError, match=r"original's answer on .* of 70 rows, less than 1\.1; nothing was written"
    ):
        export_quantized(model, tmp_path / "int8", batches(), auto_class=AUTO, least_agreement=1.1)
    assert not list(tmp_path.iterdir())


def find_spec(**pretended: bool) -> Any:
    """As importlib's, with packages that are pretended to be there or not."""
    found = importlib.util.find_spec
    return lambda name: (object() if pretended[name] else None) if name in pretended else found(name)


def test_too_few_rows_or_none_with_padding_are_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", find_spec(torchao=True))
    for given, message in (
        (batches(60), "60 rows; an export"),
        (batches(padded=False), "70 rows, none of them padded"),
    ):
        with pytest.raises(DataError, match=message):
            export_quantized(model, tmp_path / "int8", given, auto_class=AUTO)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(message: str, source: Path = model, target: Path = tmp_path / "int8", **settings: Any) -> None:
        with pytest.raises(DistillationError, match=message):
            export_quantized(source, target, batches(), auto_class=AUTO, **settings)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec(torchao=True, mslk=False))
    refused(f"scheme is 'int8'; it may be {', '.join(SCHEMES)}", scheme="int8")
    refused("exists; give a folder that does not", target=tmp_path)
    refused("the exported model .* cannot be loaded", source=tmp_path)
    refused("int4_weight needs the kernels of the package mslk", scheme="int4_weight")
    monkeypatch.setattr(importlib.util, "find_spec", find_spec(torchao=False))
    refused(r'needs the package torchao, which is not installed: pip install "hf_distill\[quant\]"')
    assert not list(tmp_path.iterdir())


@with_torchao
def test_the_command_says_what_was_found(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels are matched by name: the model's classes stand the other way round."""
    turned = tiny_runs.save_teacher(tmp_path / "turned", labels=("positive", "negative"), hidden=64, dropout=0.0)
    data = tiny_runs.write_sst2(tmp_path / "sst2", validation=70)
    found = []
    for source in (model, turned):
        flags = {
            "model": source,
            "task_name": "sst2",
            "dataset_dir": data,
            "output_dir": tmp_path / source.name / "int8",
        }
        assert main(["export", *(word for name, value in flags.items() for word in (f"--{name}", str(value)))]) == 0
        found.append(json.loads((tmp_path / source.name / "int8" / "export.json").read_text()))
        assert f"the same answer on {found[-1]['agreement']:.4f} of 70 rows, accuracy" in capsys.readouterr().out
    assert found[0]["original_accuracy"] + found[1]["original_accuracy"] == pytest.approx(1.0)


def test_the_command_ends_with_a_message(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tiny_runs.write_sst2(tmp_path / "sst2")
    assert (
        main(
            [
                "export",
                "--model",
                str(model),
                "--task_name",
                "sst2",
                "--dataset_dir",
                str(data),
                "--output_dir",
                str(data),
            ]
        )
        == 2
    )
    assert "exists; give a folder that does not" in capsys.readouterr().err


def test_labels_are_those_of_the_model_by_their_names(model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Spelled otherwise, and in another order."""
    student = AutoModelForSequenceClassification.from_pretrained(model)
    student.config.id2label, student.config.label2id = {0: "POSITIVE", 1: "NEGATIVE"}, {"POSITIVE": 0, "NEGATIVE": 1}
    student.save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "student")
    tiny_runs.write_sst2(tmp_path / "sst2")
    seen: list[int] = []

    def quantized(given: Any, batches: Any) -> str:
        seen.extend(label for batch in batches for label in batch["labels"].tolist())
        return ""

    monkeypatch.setattr(command, "_quantized", quantized)
    flags = ["--model", str(tmp_path / "student"), "--task_name", "sst2", "--dataset_dir", str(tmp_path / "sst2")]
    assert main(["export", *flags, "--output_dir", str(tmp_path / "out")]) == 0
    rows = map(json.loads, (tmp_path / "sst2" / "validation.jsonl").read_text().splitlines())
    assert seen == [1 - row["label"] for row in rows]


@pytest.mark.parametrize(
    ("cells", "column", "expected"),
    [
        (["positive", "negative", "positive"], "mood", [1, 0, 1]),
        ([1, 0, 0], "mood", [1, 0, 0]),
        (["positive", "negative", "positive"], None, []),
        ([["positive"], [], ["negative", "positive"]], "mood", [[0.0, 1.0], [0.0, 0.0], [1.0, 1.0]]),
    ],
)
def test_rows_may_be_those_of_a_file(
    cells: list[Any], column: str | None, expected: list[Any], model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    seen: list[Any] = []
    rows: list[int] = []

    def quantized(given: Any, batches: Any) -> str:
        rows.extend(len(batch["input_ids"]) for batch in batches)
        seen.extend(label for batch in batches for label in batch.get("labels", torch.empty(0)).tolist())
        return ""

    monkeypatch.setattr(command, "_quantized", quantized)
    lines = [json.dumps({"text": "good film", "mood": cell}) + "\n" for cell in cells]
    (tmp_path / "dev.jsonl").write_text("".join(lines))
    if isinstance(cells[0], list):
        student = AutoModelForSequenceClassification.from_pretrained(model, problem_type="multi_label_classification")
        student.save_pretrained(tmp_path / "several")
        AutoTokenizer.from_pretrained(model).save_pretrained(tmp_path / "several")
        model = tmp_path / "several"
    flags = ["--model", str(model), "--validation_file", str(tmp_path / "dev.jsonl"), "--text_columns", "text"]
    flags += [] if column is None else ["--label_column", column]
    assert main(["export", *flags, "--output_dir", str(tmp_path / "out")]) == 0
    assert (rows, seen) == ([3], expected)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--validation_file", "dev.jsonl"], "--validation_file needs --text_columns"),
        (["--task_name", "sst2", "--text_columns", "text"], "--text_columns goes with --validation_file"),
        (
            ["--validation_file", "dev.jsonl", "--text_columns", "text", "--dataset_dir", "x"],
            "--dataset_dir goes with --task_name",
        ),
        (["--validation_file", "dev.jsonl", "--text_columns", "text"], "dev.jsonl: no such file"),
        (["--validation_file", "dev.jsonl", "--text_columns", "a,b,c"], "give one column, or two for pairs"),
        (["--validation_file", "dev.jsonl", "--text_columns", "label"], "rename that column"),
        (
            ["--validation_file", "LISTS", "--text_columns", "text", "--label_column", "mood"],
            "does not say whether it",
        ),
    ],
)
def test_what_is_wrong_with_its_rows_is_told(
    flags: list[str], words: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tiny_runs.write_jsonl(tmp_path / "lists.jsonl", [{"text": "good film", "mood": ["positive"]}])
    flags = [str(rows) if flag == "LISTS" else flag for flag in flags]
    assert main(["export", "--model", str(model), *flags, "--output_dir", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
