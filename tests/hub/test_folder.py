"""Which files are published, and which folders are refused."""

from __future__ import annotations

import ast
import errno
import hashlib
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.numpy import load_file, save_file
from transformers import AutoTokenizer, PhobertTokenizer

from hf_distill.errors import HubError
from hf_distill.hub.export import copy_tokenizer
from hf_distill.hub.folder import PUBLISHED, LocalFile, is_published, select
from hf_distill.hub.record import Export, Record


@pytest.fixture
def folder(student_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(student_folder, tmp_path / "student", symlinks=True)


@pytest.mark.parametrize(
    "name",
    [
        "config.json",
        "model.safetensors",
        "model-00001-of-00002.safetensors",
        "model.safetensors.index.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "vocab.txt",
        "spiece.model",
        "README.md",
        "distillation.json",
    ],
)
def test_published(name: str) -> None:
    assert is_published(name)


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "training_args.bin",
        "optimizer.pt",
        "rng_state.pth",
        "scheduler.pt",
        "model.pkl",
        "trainer_state.json",
        "all_results.json",
        "distillation.safetensors",
        "cache.safetensors",
        "Model.safetensors",
        ".env",
        "config.json.bak",
        "modeling.py",
    ],
)
def test_not_published(name: str) -> None:
    assert not is_published(name)


def names_of_vocabularies() -> Iterator[str]:
    """The names of files in the `VOCAB_FILES_NAMES` of every tokenizer of transformers, read from its source."""
    for path in Path(transformers.__file__).parent.glob("models/*/tokenization_*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "VOCAB_FILES_NAMES":
                yield from ast.literal_eval(node.value).values()


def test_the_files_of_every_tokenizer_are_published() -> None:
    names = set(names_of_vocabularies())
    assert {"bpe.codes", "source.spm", "sentencepiece.model", "vocab.txt"} <= names
    assert [name for name in sorted(names) if not is_published(name)] == []


def phobert(folder: Path) -> PhobertTokenizer:
    """A tokenizer whose merges are in a file of a name of its own."""
    (folder / "vocab.txt").write_text("goo@@ 1\nd 2\n")
    (folder / "bpe.codes").write_text("g o 1\ngo o 1\n")
    return PhobertTokenizer(str(folder / "vocab.txt"), str(folder / "bpe.codes"))


def test_a_tokenizer_with_files_of_its_own_goes_with_the_student(folder: Path, tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    (tmp_path / "source").mkdir()
    tokenizer = phobert(tmp_path / "source")
    tokenizer.chat_template = {"default": "{{ messages }}", "brief": "{{ messages[0] }}"}
    tokenizer.save_pretrained(folder)
    expected = tokenizer("good")["input_ids"]
    copies = {"published": tmp_path / "published", "exported": tmp_path / "exported"}
    for name, file in select(folder).items():
        (copies["published"] / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.path, copies["published"] / name)
    copies["exported"].mkdir()
    shutil.copyfile(folder / "config.json", copies["exported"] / "config.json")
    copy_tokenizer(folder, copies["exported"])
    for copied in copies.values():
        loaded = AutoTokenizer.from_pretrained(copied)
        assert loaded("good")["input_ids"] == expected
        assert loaded.chat_template == tokenizer.chat_template


def test_files_are_summed_as_git_and_the_hub_do(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"hello\n")
    file = LocalFile.of(path)
    assert file.git_oid == "ce013625030ba8dba906f756967f9e9ca394464a"  # git hash-object
    assert file.sha256 == hashlib.sha256(b"hello\n").hexdigest()
    assert file.size == 6


def test_the_selection_is_the_list(folder: Path) -> None:
    chosen = select(folder)
    assert set(chosen) == {name for name in os.listdir(folder) if name in PUBLISHED}
    assert set(select(folder, include_objective_state=True)) - set(chosen) == {"distillation.safetensors"}


def test_a_link_inside_the_folder_is_followed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    assert select(folder)["model.safetensors"].path == (folder / "weights").resolve()


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "/no/such/file"])
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, target: str) -> None:
    (folder.parent / "outside").write_text("secret")
    (folder / "vocab.txt").symlink_to(target)
    with pytest.raises(HubError, match=r"vocab\.txt is a link that leaves the folder"):
        select(folder)


def test_what_is_no_plain_file_is_refused(folder: Path) -> None:
    os.mkfifo(folder / "merges.txt")
    with pytest.raises(HubError, match=r"merges\.txt is not a plain file"):
        select(folder)


@pytest.mark.parametrize(
    ("missing", "words"),
    [("config.json", "neither config.json nor"), ("model.safetensors", "no weights in safetensors")],
)
def test_a_folder_without_a_model_is_refused(folder: Path, missing: str, words: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(HubError, match=words):
        select(folder)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(HubError, match="is not a folder"):
        select(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"weight_map": {"a": "model-00001-of-00002.safetensors"}}, "model-00001-of-00002.safetensors"),
        ({"weight_map": {"a": "../model.safetensors"}}, "../model.safetensors"),
        ({"weight_map": 3}, "not an index"),
        ([], "not an index"),
    ],
)
def test_an_index_must_fit_the_shards(folder: Path, index: object, words: str) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(HubError) as raised:
        select(folder)
    assert words in str(raised.value)


def test_tokens_and_paths_are_all_named_and_the_token_is_not_shown(folder: Path) -> None:
    token = "hf_" + "z" * 34
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": token}))
    with (folder / "README.md").open("a") as file:
        file.write(f"\nSee {folder}/train.csv.\n")
    with pytest.raises(HubError) as raised:
        select(folder)
    text = str(raised.value)
    assert "config.json holds a Hub token" in text
    assert "README.md holds the path" in text
    assert token not in text


def test_the_header_of_the_weights_is_read_too(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", "from": "hf_" + "z" * 34})
    with pytest.raises(HubError, match=r"model\.safetensors holds a Hub token"):
        select(folder)


@pytest.mark.parametrize(
    ("name", "key", "value", "remedy"),
    [
        ("adapter_config.json", "base_model_name_or_path", "/mnt/secret/base", "Publish the merged student"),
        ("adapter_config.json", "base_model_name_or_path", "C:\\models\\base", "Publish the merged student"),
        ("adapter_config.json", "base_model_name_or_path", "./base", "Publish the merged student"),
        ("adapter_config.json", "base_model_name_or_path", "local/base", "another working directory"),
        ("config.json", "_name_or_path", "/mnt/secret/start", "Take the key out"),
        ("config.json", "_name_or_path", "~/start", "Take the key out"),
    ],
)
def test_a_model_of_this_machine_is_not_named_as_what_the_student_comes_from(
    folder: Path, name: str, key: str, value: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "local" / "base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    path = folder / name
    known = json.loads(path.read_text()) if path.is_file() else {}
    for harmless in ("google/bert_uncased", "bert-base-uncased", "", None):
        path.write_text(json.dumps({**known, key: harmless}))
        assert name in select(folder)
    path.write_text(json.dumps({**known, key: value}))
    with pytest.raises(HubError, match=rf"{name}: {key} is .*, a path of this machine") as raised:
        select(folder)
    assert remedy in str(raised.value)
    path.write_text("[]")
    assert name in select(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "model.safetensors.index.json", "README.md"])
@pytest.mark.parametrize("opened", [1, 2])
def test_a_file_that_may_not_be_read_is_told(
    folder: Path, name: str, opened: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model.safetensors"}}))
    plain, times = Path.open, itertools.count(1)

    def refused(path: Path, *args: Any, **settings: Any) -> Any:
        if path.name == name and next(times) >= opened:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path, *args, **settings)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(HubError, match=rf"Cannot read .*/{name}: Permission denied\. Make it readable"):
        select(folder)


def test_a_vocabulary_may_hold_pieces_of_paths(folder: Path) -> None:
    (folder / "vocab.txt").write_text(f"[PAD]\n{Path.home()}\n{folder}\n")
    assert "vocab.txt" in select(folder)


def test_a_graph_is_published_where_the_record_tells_of_it(folder: Path) -> None:
    graph = folder / "onnx" / "model.onnx"
    graph.parent.mkdir()
    graph.write_bytes(b"numbers, with /tmp among them by chance")
    with pytest.raises(HubError, match=r"onnx/model\.onnx is not a graph that distillation\.json tells of"):
        select(folder)
    told = Export(
        scheme="onnx",
        sha256=hashlib.sha256(graph.read_bytes()).hexdigest(),
        bytes=graph.stat().st_size,
        rows=64,
        texts="some",
        agreement=1.0,
        largest_difference=0.0,
    )
    Record.read(folder).model_copy(update={"exports": {"onnx/model.onnx": told}}).write(folder)
    assert "onnx/model.onnx" in select(folder)
    graph.write_bytes(b"of another student")
    with pytest.raises(HubError, match="may be one of another student"):
        select(folder)


def test_a_broken_record_or_card_is_not_published(folder: Path) -> None:
    text = (folder / "README.md").read_text()
    (folder / "README.md").write_text("# no metadata\n")
    with pytest.raises(HubError, match=r"README\.md has no metadata"):
        select(folder)
    (folder / "README.md").write_text(text)
    (folder / "distillation.json").write_text("{}")
    with pytest.raises(HubError, match="not a valid record"):
        select(folder)


def test_the_sums_are_those_of_git(folder: Path) -> None:
    for name, file in select(folder).items():
        ran = subprocess.run(
            ["git", "hash-object", "--no-filters", str(folder / name)], capture_output=True, text=True, check=True
        )
        assert file.git_oid == ran.stdout.strip()
