"""The record: what goes in, what is kept out, and what a stranger may put into one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import math
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from pydantic import ValidationError
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor
from transformers import BertForMaskedLM, BertForSequenceClassification, BertModel

from hf_distill import model_sizes, students
from hf_distill.errors import HubError
from hf_distill.hub import record as module
from hf_distill.hub import redaction
from hf_distill.hub.record import (
    FILE_NAME,
    DataFacts,
    ModelFacts,
    Origin,
    Record,
    SourceFacts,
    environment,
    finite_metrics,
    is_hub_id,
    sha256_of_files,
)
from hf_distill.sentences import SentenceEmbedding, give

from .conftest import make_record, tiny_student


def test_a_record_survives_writing_and_reading(tmp_path: Path) -> None:
    record = make_record()
    assert record.write(tmp_path) == tmp_path / FILE_NAME
    assert Record.read(tmp_path) == record
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    written = json.loads((tmp_path / FILE_NAME).read_text())
    assert written["schema_version"] == 1
    assert written["layer_maps"] == {"hidden_cosine": [[0, 0], [1, 4]]}
    assert record.toolkit_version == "0.1.0"


def test_records_need_no_torch_that_was_built_for_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which `torch.distributed.tensor` cannot be imported."""
    holder = nn.Module()
    holder.halves = nn.Parameter(TwoTensor(torch.zeros(3), torch.zeros(3)))
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    monkeypatch.setitem(sys.modules, "torch.distributed.tensor", None)
    spec = importlib.util.spec_from_file_location("sizes_alone", str(model_sizes.__file__))
    assert spec is not None
    assert spec.loader is not None
    alone = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(alone)
    assert alone.num_bytes(holder) == 2 * 3 * 4


def test_nothing_private_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    token = "hf_" + "q" * 34
    record = make_record(
        command=["/usr/bin/hf-distill", "--teacher", "/home/ada/teacher", "--hub_token", token],
        recipe={
            "teacher": {"model": "/home/ada/teacher", "generate": {"folder": str(tmp_path / "texts")}},
            "data": {"files": {"train": "see file:///home/ada/a.csv"}, "chat": {"system": f"Say {token}."}},
            "stages": [{"arguments": {"deepspeed": {"nvme_path": "/home/ada/nvme"}}}],
            token: token,
        },
        training_arguments={"output_dir": tmp_path / "out", "hub_token": token, "max_grad_norm": math.inf},
    )
    text = record.write(tmp_path).read_text()
    assert token not in text
    assert "/home" not in text
    assert str(tmp_path) not in text
    assert record.command == ["hf-distill", "--teacher", "teacher", "--hub_token", "[token removed]"]
    assert record.recipe == {
        "teacher": {"model": "teacher", "generate": {"folder": "texts"}},
        "data": {"files": {"train": "see a.csv"}, "chat": {"system": "Say [token removed]."}},
        "stages": [{"arguments": {"deepspeed": {"nvme_path": "nvme"}}}],
        "[token removed]": "[token removed]",
    }
    assert record.training_arguments == {"output_dir": "out", "max_grad_norm": "inf"}


def test_what_a_recipe_says_of_texts_is_recorded_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this host is called, and though it looks like a path or a secret: another text is another training."""
    monkeypatch.setattr(redaction.socket, "gethostname", lambda: "train")
    recipe = {
        "data": {
            "files": {"train": "rows_train.jsonl", "test": "train"},
            "where": {"password": "/", "api_key": "~/x", "source": "/m/09x0r"},
            "text_columns": ["train", "/text"],
            "label_names": ["/", "/m/09x0r", "a /b", "..", "C:/x", "train"],
            "chat": {"system": "Reason in <think></think>, then <answer></answer>. [/INST]"},
            "translation": {"prefix": "</s> "},
        },
        "teacher": {"model": "someone/small_train", "cache": {"settings": {"secret": "/a"}}},
        "stages": [
            {
                "name": "train",
                "on_policy": {"end_tokens": ["</s>", "[/INST]", "<|/x|>"]},
                "train": [{"parameters": r"^/?layer\\.(?!/)"}],
                "arguments": {"optim_target_modules": ["/attn", "train"], "metric_for_best_model": "train"},
            }
        ],
    }
    train = SourceFacts(name="rows.jsonl", sha256="a" * 64)
    data = DataFacts(name="rows", sources={"train": train}, sizes={"train": 3}, commits={"train": "c"})
    origins = {"data.files.train": Origin(files={"rows_train.jsonl": "a" * 64}), "train": Origin()}
    make_record(recipe=recipe, data=data, origins=origins).write(tmp_path)
    found = Record.read(tmp_path)
    assert found.recipe == recipe
    assert (found.data, found.origins) == (data, origins)
    assert [*found.data.sources, *found.data.sizes, *found.data.commits] == ["train"] * 3


@pytest.mark.parametrize("value", [math.nan, math.inf, "0.9", None, True])
def test_metrics_must_be_finite_numbers(value: Any) -> None:
    with pytest.raises(ValidationError, match=r"metrics\.eval_accuracy"):
        make_record(metrics={"eval_accuracy": value})


def test_metrics_that_cannot_be_recorded_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert finite_metrics({"a": 1, "b": math.nan, "c": "x", "d": 0.5}) == {"a": 1.0, "d": 0.5}
    assert "b, c" in caplog.text


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        (("surprise",), 1, "surprise: Extra inputs"),
        (("steps",), "3", "steps: Input should be a valid integer"),
        (("steps",), -1, "steps: Input should be greater than or equal to 0"),
        (("schema_version",), 2, "schema_version"),
        (("student", "num_parameters"), 1.5, "student.num_parameters"),
        (("teacher", "id"), "<script>", "teacher.id"),
        (("data", "sources", "train", "sha256"), "short", "data.sources.train.sha256"),
        (("metrics",), {"eval_accuracy": "high"}, "metrics.eval_accuracy"),
        (("layer_maps",), {"a": [[1]]}, "layer_maps.a.0"),
        (("objectives",), {}, "objectives: Input should be a valid array"),
        (("hardware",), None, "hardware"),
    ],
)
def test_a_strange_field_is_named(tmp_path: Path, place: tuple[str, ...], value: Any, words: str) -> None:
    path = make_record().write(tmp_path)
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(HubError) as raised:
        Record.read(tmp_path)
    assert words in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = make_record().write(tmp_path)
    content = json.loads(path.read_text())
    del content["task"]
    path.write_text(json.dumps(content))
    with pytest.raises(HubError, match="task: Field required"):
        Record.read(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"null", b"[" * 100_000, b'{"a":' * 100_000, b'{"steps": ' + b"9" * 6000 + b"}", b"\xff\xfe", b'"\\ud800"'],
)
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(HubError, match="is not a valid record"):
        Record.read(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / FILE_NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(HubError, match=r"1099511627776 bytes; a record has at most"):
        Record.read(tmp_path)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE_NAME)
    with pytest.raises(HubError, match="not a plain file"):
        Record.read(tmp_path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(HubError, match=r"Cannot read .*distillation\.json: No such file"):
        Record.read(tmp_path)


def test_a_failed_write_leaves_the_old_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_record(steps=1).write(tmp_path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(HubError, match="No space left on device"):
        make_record(steps=2).write(tmp_path)
    assert Record.read(tmp_path).steps == 1
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_facts_of_a_model_from_a_folder(tmp_path: Path) -> None:
    model = tiny_student()
    model.save_pretrained(tmp_path)
    (tmp_path / "notes.txt").write_text("no")
    facts = ModelFacts.of(model, tmp_path)
    assert facts.id is None
    assert facts.files == {
        name: hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        for name in ("config.json", "model.safetensors")
    }
    # Embeddings 8*8 + 16*8 + 2*8 + norm 16; block 4*(64+8) + (128+16) + (128+8) + 2*16; pooler 72; classifier 18.
    assert facts.num_parameters == 224 + 600 + 72 + 18
    assert facts.num_bytes == 4 * facts.num_parameters
    assert facts.class_name == "BertForSequenceClassification"
    assert facts.num_hidden_layers == 1


def test_files_in_folders_are_told_apart(tmp_path: Path) -> None:
    for name in ("config.json", "1_Pooling/config.json", "2_Dense/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = sha256_of_files(tmp_path, ("?_Pooling/*.json", "config.json"))
    names = ("1_Pooling/config.json", "config.json")
    assert found == {name: hashlib.sha256(name.encode()).hexdigest() for name in names}


def test_facts_of_a_model_from_the_hub() -> None:
    model = tiny_student().to(torch.bfloat16)
    model.config._commit_hash = "f" * 40
    facts = ModelFacts.of(model, "someone/bert")
    assert (facts.id, facts.revision, facts.files) == ("someone/bert", "f" * 40, {})
    assert facts.num_bytes == 2 * facts.num_parameters


@pytest.mark.parametrize("name", [None, "/no/such/folder", "a/b/c"])
def test_a_model_from_nowhere_has_no_name(name: str | None) -> None:
    assert ModelFacts.of(tiny_student(), name).id is None


def test_a_folder_that_looks_like_a_hub_name_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone" / "bert").mkdir(parents=True)
    assert ModelFacts.of(tiny_student(), "someone/bert").id is None


def test_packed_weights_count_what_they_stand_for() -> None:
    """As bitsandbytes keeps 4 bits: two values in a byte, and the shape beside them."""
    model = tiny_student()
    whole, weight = ModelFacts.of(model), model.bert.pooler.dense.weight
    packed = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    packed.quant_state = SimpleNamespace(shape=torch.Size([8, 8]))
    model.bert.pooler.dense.weight = packed
    found = ModelFacts.of(model)
    assert weight.numel() == 64
    assert found.num_parameters == whole.num_parameters
    assert found.num_bytes == whole.num_bytes - 64 * 4 + 32


def test_a_tensor_made_of_others_takes_what_these_take() -> None:
    """As torchao's: it says float32, and holds bytes and scales."""
    model = tiny_student()
    whole = ModelFacts.of(model)
    parts = torch.zeros(8, 8), torch.zeros(8, 8)
    model.bert.pooler.dense.weight = nn.Parameter(TwoTensor(*parts), requires_grad=False)
    found = ModelFacts.of(model)
    assert found.num_parameters == whole.num_parameters
    assert found.num_bytes == whole.num_bytes + 64 * 4


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["4 bits of bitsandbytes", "8 bits of bitsandbytes", "8 bits of torchao"])
def test_a_quantized_model_counts_all_its_values(kind: str, tmp_path: Path) -> None:
    """Of 4 x 8 x 8 + 2 x 8 x 16 + 8 x 8 + 2 x 8 = 592 values in the linear layers; torchao's tensors hold a scale and
    a zero point as well, 5 bytes for each of 66 outputs."""
    model = tiny_student()
    model.save_pretrained(tmp_path)
    whole = ModelFacts.of(model)
    if kind == "8 bits of torchao":
        quantization = pytest.importorskip("torchao.quantization")
        settings: Any = transformers.TorchAoConfig(quantization.Int8WeightOnlyConfig())
        saved = 592 * 3 - 66 * 5
    else:
        pytest.importorskip("bitsandbytes")
        settings = transformers.BitsAndBytesConfig(load_in_4bit="4" in kind, load_in_8bit="8" in kind)
        saved = 592 * 7 // 2 if "4" in kind else 592 * 3
    loaded = BertForSequenceClassification.from_pretrained(tmp_path, quantization_config=settings, dtype=torch.float32)
    found = ModelFacts.of(loaded)
    assert found.num_parameters == whole.num_parameters
    assert found.num_bytes == whole.num_bytes - saved


def test_dense_layers_behind_a_pooling_count() -> None:
    teacher = BertModel(tiny_student().config)
    plain = ModelFacts.of(teacher).num_parameters
    give(teacher, SentenceEmbedding("mean", True), nn.Sequential(nn.Linear(8, 4), nn.Tanh()))
    student = students.from_layers(teacher, layers=1)
    assert [ModelFacts.of(model).num_parameters - plain for model in (teacher, student)] == [36, 36]


def test_tied_parameters_count_once() -> None:
    model = BertForMaskedLM(tiny_student().config)
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    # As above without pooler and classifier; the head adds a transform 72 + 16 and a bias 8.
    assert ModelFacts.of(model).num_parameters == 224 + 600 + 72 + 16 + 8


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("bert-base-uncased", True),
        ("a/b", True),
        ("some.one/model_1", True),
        ("a/b/c", False),
        ("/a", False),
        ("a--b", False),
        ("a..b", False),
        ("-a/b", False),
        ("a/b.git", False),
        ("a" * 97, False),
        ("a/b\n", False),
        ("", False),
        ("é/b", False),
    ],
)
def test_names_of_repositories(name: str, right: bool) -> None:
    assert is_hub_id(name) is right


def test_environment_names_versions_and_no_host() -> None:
    versions, hardware = environment()
    assert versions["python"] == platform.python_version()
    assert versions["torch"] == torch.__version__
    assert {"transformers", "datasets", "accelerate"} <= set(versions)
    assert hardware.cores == os.cpu_count()
    assert len(hardware.accelerators) == (torch.accelerator.device_count() if torch.accelerator.is_available() else 0)
    assert platform.node() not in hardware.model_dump_json()
