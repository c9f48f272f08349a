"""Model folders of strangers: pickles, code, links, names that lead elsewhere, damage. Nothing of them runs (a canary
file would appear), nothing outside them is read, and the refusal names the model."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.errors import DistillationError, RecipeError
from hf_distill.loading import load_feature_extractor, load_model, load_tokenizer
from hf_distill.recipe import Recipe
from tests import tiny_runs
from tests.faults.tiny_faults import trainer_for

HEAD = "AutoModelForSequenceClassification"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_runs.save_teacher(tmp_path_factory.mktemp("original") / "teacher")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "teacher"))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


class Payload:
    """What makes the canary when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.canary,)


def changed(folder: Path, name: str, **entries: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


def refused(folder: Path) -> str:
    with pytest.raises(DistillationError) as caught:
        load_model(str(folder), HEAD, role="teacher")
    assert str(caught.value).startswith(f"the teacher {str(folder)!r}")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_canary_sings(canary: Path) -> None:
    pickle.loads(pickle.dumps(Payload(canary)))
    assert canary.exists()


# ---- code ----


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_in_place_of_weights_does_not_run(how: str, folder: Path, canary: Path) -> None:
    (folder / "model.safetensors").unlink()
    path = folder / "pytorch_model.bin"
    if how == "torch":
        torch.save(Payload(canary), path)
    else:
        path.write_bytes(pickle.dumps(Payload(canary)))
    assert "cannot be loaded" in refused(folder)
    assert not canary.exists()


def test_a_pickle_beside_the_weights_is_not_read(folder: Path, canary: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt"):
        torch.save(Payload(canary), folder / name)
    load_model(str(folder), HEAD, role="teacher")
    assert not canary.exists()


@pytest.mark.parametrize("model_type", ["bert", "unheard_of"])
def test_code_of_a_model_does_not_run_without_the_flag(model_type: str, folder: Path, canary: Path) -> None:
    (folder / "code.py").write_text(f"import pathlib; pathlib.Path({str(canary)!r}).touch()\n")
    where = {"AutoConfig": "code.Config", HEAD: "code.Model", "AutoTokenizer": ["code.Tokenizer", None]}
    changed(folder, "config.json", auto_map=where, model_type=model_type)
    changed(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["code.Tokenizer", None]})
    if model_type == "bert":  # transformers has a class of its own, and takes that
        load_model(str(folder), HEAD, role="teacher")
    else:
        assert "custom code" in refused(folder)
    load_tokenizer(str(folder), role="teacher")
    assert not canary.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_in_a_checkpoint_does_not_run(name: str, tmp_path: Path, canary: Path) -> None:
    arguments = {"output_dir": str(tmp_path / "out"), "max_steps": 1, "save_strategy": "steps", "save_steps": 1}
    trainer_for(arguments=arguments).train()
    torch.save(Payload(canary), tmp_path / "out" / "checkpoint-1" / name)
    with suppress(Exception):
        trainer_for(arguments={**arguments, "max_steps": 2}).train(resume_from_checkpoint=True)
    assert not canary.exists()


def test_yaml_does_not_run_and_is_not_read_beyond_its_limit(tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"schema: !!python/object/apply:os.system ['touch {canary}']\n")
    with pytest.raises(RecipeError, match=r"a\.yaml: line 1: not readable as YAML: tags"):
        Recipe.load(path)
    assert not canary.exists()
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RecipeError, match="more than 1000000 bytes"):
        Recipe.load(path)


# ---- files elsewhere ----


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "{other}/model.safetensors", "a\\b", "x/model.safetensors"]
)
def test_an_index_that_names_files_elsewhere_is_refused(name: str, folder: Path, original: Path) -> None:
    shutil.copytree(original, folder.parent / "other")
    named = name.format(other=folder.parent / "other")
    keys = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, named)}))
    assert f"model.safetensors.index.json names {named!r}" in refused(folder)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_link_that_leaves_the_folder_is_refused(name: str, folder: Path, original: Path) -> None:
    (folder / name).unlink()
    (folder / name).symlink_to(original / name)
    assert f"{name} is a link that leaves the folder" in refused(folder)
    for load in (load_tokenizer, load_feature_extractor):
        with pytest.raises(DistillationError, match="is a link that leaves the folder"):
            load(str(folder), role="student")


def test_links_inside_the_folder_and_of_the_cache_of_the_hub_are_followed(folder: Path, original: Path) -> None:
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "a")
    (folder / "model.safetensors").symlink_to(folder / "weights" / "a")
    load_model(str(folder), HEAD, role="teacher")
    cache = folder.parent / "models--some--teacher"
    (cache / "snapshots" / "0").mkdir(parents=True)
    shutil.copytree(original, cache / "blobs")
    for blob in (cache / "blobs").iterdir():
        (cache / "snapshots" / "0" / blob.name).symlink_to(Path("../../blobs", blob.name))
    load_model(str(cache / "snapshots" / "0"), HEAD, role="teacher")


# ---- damage ----


def cut(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-50])


def huge_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "weights cut": (cut, "incomplete metadata"),
    "weights with a huge header": (huge_header, "header"),
    "weights missing": (lambda folder: (folder / "model.safetensors").unlink(), "no file named"),
    "weights of another size": (lambda folder: changed(folder, "config.json", hidden_size=32), "mismatched"),
    "index of another kind": (
        lambda folder: (
            (folder / "model.safetensors").rename(folder / "x")
            and (folder / "model.safetensors.index.json").write_text("[]")
        ),
        "indices must be",
    ),
    "config cut": (lambda folder: (folder / "config.json").write_text("{"), "JSON"),
    "config of another kind": (lambda folder: (folder / "config.json").write_text("[]"), "model_type"),
    "config nested": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "recursion"),
    "a size that is a word": (lambda folder: changed(folder, "config.json", hidden_size="wide"), "hidden_size"),
    "no heads": (lambda folder: changed(folder, "config.json", num_attention_heads=0), "zero"),
    "config missing": (lambda folder: (folder / "config.json").unlink(), "model_type"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_told_in_one_line(what: str, folder: Path) -> None:
    damage, words = DAMAGE[what]
    damage(folder)
    assert words in refused(folder)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer.json", "[]"), ("tokenizer.json", "{"), ("tokenizer.json", "[" * 100_000),
        ("tokenizer_config.json", "[]"), ("tokenizer_config.json", "{"), ("tokenizer_config.json", "[" * 100_000),
    ],
)  # fmt: skip
def test_a_damaged_tokenizer_is_told_in_one_line(name: str, text: str, folder: Path) -> None:
    (folder / name).write_text(text)
    with pytest.raises(DistillationError) as caught:
        load_tokenizer(str(folder), role="teacher")
    assert str(caught.value).startswith(f"the tokenizer of the teacher {str(folder)!r} cannot be loaded: ")
    assert "\n" not in str(caught.value)
