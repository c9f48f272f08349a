"""A user's own task: labels, texts, packages."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from hf_distill.data.text import TextData, load_files, load_packaged
from hf_distill.errors import DataError


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(*labels: Any) -> list[dict[str, Any]]:
    return [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]


def load(folder: Path, names: list[str] | None = None, **splits: list[Any]) -> TextData:
    files = {split: jsonl(folder / f"{split}.jsonl", rows(*labels)) for split, labels in splits.items()}
    return load_files(files, ["text"], "label", names)


def csv_file(path: Path, *labels: str) -> Path:
    path.write_text("text,label\n" + "".join(f"row,{label}\n" for label in labels))
    return path


def test_names_are_sorted_and_taken_from_train(tmp_path: Path) -> None:
    data = load(tmp_path, train=["pos", "neg", "pos"], validation=["pos"], test=["neg"])
    assert data.label_names == ("neg", "pos")
    assert data.splits["train"].to_dict() == {"text": ["row 0", "row 1", "row 2"], "label": [1, 0, 1]}
    assert data.splits["validation"]["label"][:] == [1]
    assert data.splits["test"]["label"][:] == [0]
    assert data.splits["train"].features["label"].names == ["neg", "pos"]
    assert data.kind == "single_label"
    assert data.text_columns == ("text",)
    assert data.sources == {
        split: hashlib.sha256((tmp_path / f"{split}.jsonl").read_bytes()).hexdigest()
        for split in ("train", "validation", "test")
    }


def test_integers_are_classes_in_numerical_order(tmp_path: Path) -> None:
    data = load(tmp_path, train=[10, 9, 10])
    assert data.label_names == ("9", "10")
    assert data.splits["train"]["label"][:] == [1, 0, 1]


def test_floats_without_fraction_are_classes_with_it_a_regression(tmp_path: Path) -> None:
    assert load(tmp_path, train=[0.0, 1.0]).label_names == ("0", "1")
    data = load(tmp_path, train=[3, 3.5], validation=[1])
    assert data.kind == "regression"
    assert data.label_names == ()
    assert data.splits["train"]["label"][:] == [3.0, 3.5]
    assert data.splits["validation"]["label"][:] == [1.0]
    assert data.splits["train"].features["label"].dtype == "float32"


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        (("1", "0", "1"), ("0", "1"), [1, 0, 1]),
        (("2.0", "1", "2"), ("1", "2"), [1, 0, 1]),
        (("-1", "+1", "-1"), ("-1", "1"), [0, 1, 0]),
        (("nan", "null", "NA"), ("NA", "nan", "null"), [1, 2, 0]),
        (("1", "x", "1"), ("1", "x"), [0, 1, 0]),
        (("1_0", "10", "10"), ("10", "1_0"), [1, 0, 0]),
        (("0.5", "1", ".25"), (), [0.5, 1.0, 0.25]),
    ],
)
def test_csv_labels_are_numbers_if_all_look_like_numbers(
    labels: tuple[str, ...], names: tuple[str, ...], expected: list[float], tmp_path: Path
) -> None:
    data = load_files({"train": csv_file(tmp_path / "t.csv", *labels)}, ["text"], "label")
    assert data.label_names == names
    assert data.splits["train"]["label"][:] == expected


@pytest.mark.parametrize(
    ("labels", "trained", "names", "expected"),
    [
        (("0", "1"), ("neg", "pos"), ("neg", "pos"), [0, 1]),
        (("0", "1"), ("a", "b", "c"), ("0", "1"), [0, 1]),
        (("1", "2"), ("neg", "pos"), ("1", "2"), [0, 1]),
        (("pos", "neg"), ("pos", "neg"), ("neg", "pos"), [1, 0]),
        (("1", "3.0", "5"), ("LABEL_0",), (), [1.0, 3.0, 5.0]),
        (("bad", "good"), ("LABEL_0",), ("bad", "good"), [0, 1]),
    ],
)
def test_a_trained_model_says_what_numbers_mean(
    labels: tuple[str, ...], trained: tuple[str, ...], names: tuple[str, ...], expected: list[float], tmp_path: Path
) -> None:
    file = csv_file(tmp_path / "t.csv", *labels)
    data = load_files({"train": file}, ["text"], "label", trained_labels=trained)
    assert data.label_names == names
    assert data.splits["train"]["label"][:] == expected


def test_csv_names_of_train_that_look_like_numbers_elsewhere(tmp_path: Path) -> None:
    files = {
        "train": csv_file(tmp_path / "t.csv", "1", "x"),
        "validation": csv_file(tmp_path / "v.csv", "1", "1"),
    }
    assert load_files(files, ["text"], "label").splits["validation"]["label"][:] == [0, 0]


def test_label_names_fix_the_order(tmp_path: Path) -> None:
    by_name = load(tmp_path, ["pos", "neg", "rare"], train=["pos", "neg"])
    assert by_name.label_names == ("pos", "neg", "rare")
    assert by_name.splits["train"]["label"][:] == [0, 1]
    assert load(tmp_path, ["neg", "pos"], train=[1, 0]).splits["train"]["label"][:] == [1, 0]
    assert load(tmp_path, ["2", "1"], train=[1, 2]).splits["train"]["label"][:] == [1, 0]
    alone = load(tmp_path, ["neg", "pos"], validation=["pos"])
    assert alone.splits["validation"]["label"][:] == [1]


WRONG = {
    "null label": ({"train": ["a", None]}, None, ["train.jsonl, line 2, column 'label'", "null"]),
    "empty label": ({"train": ["a", ""]}, None, ["line 2", "''"]),
    "boolean label": ({"train": [True, False]}, None, ["line 1", "True (bool)"]),
    "list label": ({"train": ["a", ["a"]]}, None, ["line 2", "list"]),
    "mixed labels": ({"train": ["a", 1]}, None, ["line 2", "1 (int)", "'a' (str) in line 1"]),
    "NaN label": ({"train": [0.5, float("nan")]}, None, ["line 2", "not finite"]),
    "infinite label": ({"train": [0.5, float("-inf")]}, None, ["line 2", "not finite"]),
    "huge label": ({"train": [0.5, 10**400]}, None, ["line 2", "not finite"]),
    "surrogate label": ({"train": ["a", "\ud800"]}, None, ["line 2", "surrogates"]),
    "unknown in validation": (
        {"train": ["neg", "pos"], "validation": ["pos", "poz"]},
        None,
        ["validation.jsonl, line 2", "'poz'", "did you mean 'pos'? known: neg, pos"],
    ),
    "position where names are": ({"train": ["a", "b"], "validation": [0]}, None, ["validation.jsonl, line 1", "0"]),
    "unlabelled validation": ({"train": ["a"], "validation": [None]}, None, ["validation.jsonl, line 1", "null"]),
    "unlabelled in part": ({"train": ["a"], "test": ["a", None]}, None, ["test.jsonl, line 2", "null"]),
    "fraction after classes": ({"train": [0, 1], "validation": [0.5]}, None, ["validation.jsonl", "0.5", "0, 1"]),
    "text after numbers": ({"train": [0.5], "validation": ["a"]}, None, ["validation.jsonl", "'a'", "are numbers"]),
    "not among the names": ({"train": ["a", "c"]}, ["a", "b"], ["line 2", "'c'", "known: a, b"]),
    "beyond the names": ({"train": [0, 2]}, ["a", "b"], ["line 2", "2", "known: 0, 1"]),
    "names for a regression": ({"train": [0.5, 1.0]}, ["a", "b"], ["train.jsonl", "regression", "names"]),
    "name twice": ({"train": ["a", "b"]}, ["a", "a"], ["'a'", "label names"]),
    "no names": ({"train": ["a", "b"]}, [], ["label names"]),
    "no train": ({"validation": ["a"]}, None, ["no train", "validation"]),
    "no files": ({}, ["a"], ["no train"]),
    "unknown split": ({"trian": ["a"]}, None, ["'trian'", "did you mean 'train'"]),
}


@pytest.mark.parametrize(("splits", "names", "words"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_label_is_named_with_file_line_and_column(
    splits: dict[str, list[Any]], names: list[str] | None, words: list[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, names, **splits)
    for word in words:
        assert word in str(caught.value)


def test_csv_labels_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    for label in ("1e999", "9" * 50):
        path = csv_file(tmp_path / "t.csv", "0.5", label)
        with pytest.raises(DataError, match=r"t\.csv, line 3, column 'label': .* not finite"):
            load_files({"train": path}, ["text"], "label")


@pytest.mark.parametrize(
    ("cell", "word"),
    [(None, "null"), (3, r"3 \(int\)"), (["a"], "list"), ("ok \udcff", "surrogates"), (True, "True")],
)
def test_a_text_that_is_none_is_named_with_file_line_and_column(cell: Any, word: str, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x", "label": 0}, {"text": cell, "label": 1}])
    with pytest.raises(DataError, match=rf"a\.jsonl, line 2, column 'text': .*{word}"):
        load_files({"train": path}, ["text"], "label")


def test_csv_text_is_never_a_missing_value_or_a_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label\nNA,0\nnull,1\nnan,0\n,1\n3.50,0\nNone,1\n")
    data = load_files({"train": path}, ["text"], "label")
    assert data.splits["train"]["text"][:] == ["NA", "null", "nan", "", "3.50", "None"]


def test_empty_texts_are_allowed_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"a": "", "b": "x", "label": 0}, {"a": " \n", "b": "y", "label": 1}])
    with caplog.at_level(logging.WARNING):
        data = load_files({"train": path}, ["a", "b"], "label")
    assert data.splits["train"]["a"][:] == ["", " \n"]
    assert [record.getMessage() for record in caplog.records] == [f"{path}: 2 of 2 texts in column 'a' are empty."]


def test_one_class_is_allowed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        data = load(tmp_path, train=["a", "a"])
    assert data.label_names == ("a",)
    assert "one class only, 'a'" in caplog.text


def test_a_test_split_may_be_unlabelled(tmp_path: Path) -> None:
    train = jsonl(tmp_path / "train.jsonl", rows("a", "b"))
    without = jsonl(tmp_path / "without.jsonl", [{"text": "x"}])
    blank = jsonl(tmp_path / "blank.jsonl", rows(None, ""))
    for test in (without, blank):
        data = load_files({"train": train, "test": test}, ["text"], "label")
        assert data.splits["test"].column_names == ["text"]
    alone = load_files({"test": without}, ["text"], "label", ["a", "b"])
    assert alone.label_names == ("a", "b")


def test_without_a_label_column_nothing_is_labelled(tmp_path: Path) -> None:
    data = load_files({"train": jsonl(tmp_path / "a.jsonl", rows("a", None))}, ["text"])
    assert data.splits["train"].column_names == ["text"]
    assert (data.label_names, data.kind) == ((), "single_label")


@pytest.mark.parametrize("columns", [[], ["a", "b", "c"], ["a", "a"], ["label"], "text"])
def test_text_columns_are_one_or_two(columns: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="text columns"):
        load_files({"train": tmp_path / "a.jsonl"}, columns, "label")


def test_where_keeps_rows_and_labels_come_from_those_alone(tmp_path: Path) -> None:
    table = [
        {"text": f"row {i}", "label": label, "source": i % 2, "odd": i % 2 == 1} for i, label in enumerate("abcb")
    ]
    path = jsonl(tmp_path / "a.jsonl", table)
    data = load_files({"train": path}, ["text"], "label", where={"source": 1})
    assert data.splits["train"].to_dict() == {"text": ["row 1", "row 3"], "label": [0, 0]}
    assert load_files({"train": path}, ["text"], "label", where={"odd": True}).label_names == ("b",)
    with pytest.raises(DataError, match=r"True \(bool\) in column 'source'.* holds 0 \(int\), 1 \(int\)"):
        load_files({"train": path}, ["text"], "label", where={"source": True})
    with pytest.raises(DataError, match=r"no column 'sauce'; did you mean 'source'"):
        load_files({"train": path}, ["text"], "label", where={"sauce": 1})


def test_where_reads_csv_cells_as_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text,label,year\nx,0,1999\ny,1,2000\nz,1,1999\n")
    data = load_files({"train": path}, ["text"], "label", where={"year": 1999, "label": "1"})
    assert data.splits["train"]["text"][:] == ["z"]
    with pytest.raises(DataError, match=r"'2001' \(str\) in column 'year'"):
        load_files({"train": path}, ["text"], "label", where={"year": 2001})


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Path]:
    """An importable package that fails when it is imported."""
    folder = tmp_path / "site" / "brings_data"
    (folder / "data").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "data" / "all.csv").write_text("text,label,source\nbad,0,a\ngood,1,a\nfine,1,b\n")
    (tmp_path / "site" / "outside.csv").write_text("text,label\nx,0\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return "brings_data", folder / "data" / "all.csv"


def test_a_packaged_file_is_read_without_importing_the_package(package: tuple[str, Path]) -> None:
    name, file = package
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    data = load_packaged(name, "data/all.csv", digest, ["text"], "label", ["neg", "pos"], {"source": "a"})
    assert data.splits["train"].to_dict() == {"text": ["bad", "good"], "label": [0, 1]}
    assert data.label_names == ("neg", "pos")
    assert data.sources == {"train": digest}
    assert name not in sys.modules


def test_a_packaged_file_must_be_there_and_be_the_right_one(package: tuple[str, Path]) -> None:
    name, file = package
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(DataError, match=rf"SHA-256 is {digest}, expected {'0' * 64}"):
        load_packaged(name, "data/all.csv", "0" * 64, ["text"])
    with pytest.raises(DataError, match="64 lower-case hexadecimal"):
        load_packaged(name, "data/all.csv", "abc", ["text"])
    with pytest.raises(DataError, match=r"no such file; .* holds all\.csv"):
        load_packaged(name, "data/some.csv", digest, ["text"])
    for outside in ("../outside.csv", str(file.parents[2] / "outside.csv"), "data/../../outside.csv"):
        with pytest.raises(DataError, match="leaves the package"):
            load_packaged(name, outside, digest, ["text"])


@pytest.mark.parametrize("name", ["not_installed_here", "os.path", "../site", "__main__", "json.decoder", "csv"])
def test_a_missing_package_is_named_with_the_extra(name: str) -> None:
    with pytest.raises(DataError, match=r'pip install "hf_distill\[quickstart\]"'):
        load_packaged(name, "data/all.csv", "0" * 64, ["text"])
