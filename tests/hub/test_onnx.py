"""What is refused before a graph is written; the graphs themselves are in `tests/slow/test_onnx.py`."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from hf_distill.commands import publish
from hf_distill.commands.main import main
from hf_distill.errors import DistillationError, HubError
from hf_distill.hub import graphs, onnx
from hf_distill.hub.onnx import SENTENCES, OnnxModel, batches_of, write_onnx
from hf_distill.hub.publish import Published
from hf_distill.hub.record import Export
from hf_distill.runs import exporting
from hf_distill.runs.exporting import export_run
from hf_distill.runs.folder import RunFolder
from tests import tiny_models, tiny_runs

from .conftest import make_export, make_record


def pretend(monkeypatch: pytest.MonkeyPatch, installed: bool) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: (object() if installed else None) if name in onnx.PACKAGES else found(name),
    )


def test_a_missing_package_is_named_with_the_way_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, installed=False)
    for attempt in (
        lambda: write_onnx(tiny_models.tiny("bert", tiny_models.CLASSIFIER), tiny_runs.tokenizer(), tmp_path / "onnx"),
        lambda: OnnxModel(tmp_path / "model.onnx"),
    ):
        with pytest.raises(DistillationError, match=r'the package onnx, .*: pip install "hf_distill\[export\]"'):
            attempt()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("family", "head", "task"),
    [
        ("gpt2", "AutoModelForCausalLM", "causal_lm"),
        ("t5", "AutoModelForSeq2SeqLM", "seq2seq_lm"),
        ("bart", tiny_models.CLASSIFIER, "single_label"),
    ],
)
def test_models_that_run_in_a_loop_are_refused_by_name(
    family: str, head: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, installed=True)
    model = tiny_models.tiny(family, head, layers=1)
    with pytest.raises(DistillationError, match=rf"{type(model).__name__} \({family}\) is a model of the task {task}"):
        write_onnx(model, tiny_runs.tokenizer(), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_model_beyond_one_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, installed=True)
    monkeypatch.setattr(onnx, "MAX_BYTES", 4000)
    model = tiny_models.tiny("bert", tiny_models.CLASSIFIER, layers=1)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    with pytest.raises(DistillationError, match=f"has {size:,} bytes of weights in float32; .* less than 4,000"):
        write_onnx(model, tiny_runs.tokenizer(), tmp_path / "onnx")


def test_sentences_come_in_padded_batches_of_different_lengths_and_alone() -> None:
    tokenizer = tiny_runs.tokenizer()
    tokenizer.model_max_length = 20
    found = batches_of(tiny_models.tiny("distilbert", tiny_models.CLASSIFIER, layers=1), tokenizer, SENTENCES)
    assert [len(batch["input_ids"]) for batch in found] == [4, 4, 4, 4, 1, 1]
    assert all(set(batch) == {"input_ids", "attention_mask"} for batch in found)
    assert sum(not batch["attention_mask"].all() for batch in found) >= 3
    lengths = [batch["input_ids"].shape[1] for batch in found]
    assert len(set(lengths)) >= 3
    assert max(lengths) == 20  # one is longer
    assert sum(len(batch["input_ids"]) for batch in found[:4]) == len(SENTENCES)


def test_rows_end_somewhere_where_neither_model_nor_tokenizer_has_a_limit(tmp_path: Path) -> None:
    tokenizer = tiny_runs.tokenizer()
    tokenizer.model_max_length = int(1e30)
    model = tiny_models.tiny("deberta-v2", tiny_models.CLASSIFIER, layers=1, position_biased_input=False)
    assert exporting._seen(RunFolder(tmp_path), model, tokenizer).max_length == 2**16
    tokenizer.model_max_length = 9
    assert exporting._seen(RunFolder(tmp_path), model, tokenizer).max_length == 9


def test_a_graph_that_cannot_be_timed_gets_no_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written(model: Any, batches: Any, folder: Path, **settings: Any) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(b"of this student")
        return folder / "model.onnx", None

    def failing(*given: Any, **settings: Any) -> Any:
        raise OverflowError("int too big to convert")

    monkeypatch.setattr(graphs, "write_graph", written)
    monkeypatch.setattr(graphs, "OnnxModel", lambda path: None)
    monkeypatch.setattr(graphs, "measure_latency", failing)
    (tmp_path / "model.onnx").write_bytes(b"told of in the record")
    model = tiny_models.tiny("bert", tiny_models.CLASSIFIER, layers=1)
    with pytest.raises(OverflowError):
        graphs.add_graph("onnx", model, tiny_runs.tokenizer(), tmp_path, [], ["a"], told="some", max_length=8)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [
        ("model.onnx", b"told of in the record")
    ]


def test_settings_of_one_form_are_refused_for_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags: list[Any] = ["--model", tmp_path, "--output_dir", tmp_path / "x", "--task_name", "sst2", "--format", "onnx"]
    for more in (["--scheme", "int8_weight"], ["--keep", "classifier"]):
        assert main(["export", *map(str, flags), *more]) == 2
        assert "--scheme and --keep are of --format int8, not of onnx" in capsys.readouterr().err


def test_publish_writes_the_forms_that_are_asked_for_before_it_sends_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[Any] = []

    def exported(folder: Path, forms: list[str]) -> dict[str, Export]:
        done.append((folder, forms))
        return {f"onnx/{form}": make_export(scheme=form) for form in forms}

    def published(folder: Path, *args: Any, **kwargs: Any) -> Published:
        done.append(folder)
        return Published("https://hub/me/x", "c0ffee", {}, True)

    monkeypatch.setattr(publish, "finished_record", lambda folder: make_record())
    monkeypatch.setattr(publish.Publication, "check", lambda publication: done.append(publication.repo_id))
    monkeypatch.setattr(publish, "export_run", exported)
    monkeypatch.setattr(publish, "publish_run", published)
    words = ["publish", str(tmp_path), "--repo_id", "me/x"]
    for more, forms in (([], []), (["--int8"], ["onnx-int8"]), (["--int8", "--onnx"], ["onnx", "onnx-int8"])):
        done.clear()
        assert main([*words, *more]) == 0
        looked_at = ["me/x"] if forms else []
        assert done == [*looked_at, (tmp_path, forms), tmp_path]
    shown = capsys.readouterr().out
    assert "onnx/onnx-int8: 1,500,000 bytes, the same answer on 0.9931 of 872 rows, accuracy 0.9100 -> 0.9090" in shown
    assert "6.00 -> 2.00 ms per sentence on 1 thread\n" in shown


def test_a_folder_that_is_no_finished_run_gets_no_forms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, installed=True)
    assert export_run(tmp_path, []) == {}
    with pytest.raises(HubError, match=r"is not the folder of a finished run: it has no distillation\.json"):
        export_run(tmp_path, ["onnx"])
    assert list(tmp_path.iterdir()) == []
