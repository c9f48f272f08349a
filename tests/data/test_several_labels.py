"""Texts that have any number of classes each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hf_distill.data.selection import deduplicate, split
from hf_distill.data.text import TextData, load_files
from hf_distill.errors import DataError
from tests import tiny_runs


def load(folder: Path, names: list[str] | None = None, trained: tuple[str, ...] = (), **splits: list[Any]) -> TextData:
    files = {}
    for name, labels in splits.items():
        rows = [{"text": f"row {i}", "label": label} for i, label in enumerate(labels)]
        files[name] = tiny_runs.write_jsonl(folder / f"{name}.jsonl", rows)
    return load_files(files, ["text"], "label", names, None, trained)


def test_lists_of_names_become_a_flag_for_each_class(tmp_path: Path) -> None:
    data = load(tmp_path, train=[["glad", "calm"], [], ["sad"]], validation=[["sad", "calm"]], test=[["glad"]])
    assert (data.kind, data.label_names) == ("multi_label", ("calm", "glad", "sad"))
    assert data.splits["train"]["label"][:] == [[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0]]
    assert data.splits["validation"]["label"][:] == [[1.0, 0.0, 1.0]]
    assert data.splits["test"]["label"][:] == [[0.0, 1.0, 0.0]]
    assert data.splits["train"].features["label"].feature.dtype == "float32"


def test_names_that_are_given_fix_the_order_and_numbers_are_their_places(tmp_path: Path) -> None:
    for lists in ([["sad", "glad"], ["calm"]], [[0, 1], [2]]):
        data = load(tmp_path, ["sad", "glad", "calm", "cross"], train=lists)
        assert data.label_names == ("sad", "glad", "calm", "cross")
        assert data.splits["train"]["label"][:] == [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]
    assert load(tmp_path, train=[[10], [9, 2]]).label_names == ("2", "9", "10")
    assert load(tmp_path, None, ("sad", "glad"), train=[[0], [1, 0]]).label_names == ("sad", "glad")


def test_a_split_without_any_class_has_no_flag_set(tmp_path: Path) -> None:
    data = load(tmp_path, train=[["a"], ["b"]], validation=[[], []])
    assert data.splits["validation"]["label"][:] == [[0.0, 0.0], [0.0, 0.0]]
    named = load(tmp_path, ["a", "b"], train=[[], []])
    assert (named.kind, named.label_names) == ("multi_label", ("a", "b"))
    assert named.splits["train"]["label"][:] == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("secret", [None, [], [None], [-1]])
def test_a_test_with_nothing_in_its_lists_has_no_labels(tmp_path: Path, secret: Any) -> None:
    data = load(tmp_path, train=[["a"], ["b"]], test=[secret, secret])
    assert data.splits["test"].column_names == ["text"]


WRONG = {
    "flags of two classes": ([[0, 1], [1, 0]], [[0, 1]], ["a", "b"], ["train.jsonl", "a 0 or 1 for each class"]),
    "truth values": ([[False, True], [True, True]], [[True, True]], None, ["train.jsonl", "a 0 or 1 for each class"]),
    "nothing in the first row": ([None, ["a"]], [["a"]], None, ["train.jsonl, line 1", "null", "an empty list"]),
    "the text of a list": (["['a', 'b']", "['a']"], ["['a']"], None, ["train.jsonl", "looks like a list", "in JSON"]),
    "flags": ([[0, 0, 1], [1, 0, 0]], [[0, 1, 0]], None, ["train.jsonl", "a 0 or 1 for each class"]),
    "twice": ([["a", "b", "a"], ["b"]], [["a"]], None, ["train.jsonl, line 1", "'a' stands there twice"]),
    "unknown": ([["a"], ["b"]], [["a", "bb"]], None, ["validation.jsonl, line 1", "'bb'", "did you mean 'b'"]),
    "no list": ([["a"], "b"], [["a"]], None, ["train.jsonl, line 2", "'b' (str)", "an empty list"]),
    "a list among words": (["a", ["b"]], ["a"], None, ["train.jsonl, line 2", "['b'] (list)", "text or a number"]),
    "a list among words of validation": (["a", "b"], [["a"]], None, ["validation.jsonl, line 1", "['a'] (list)"]),
    "scores": ([[0.5], [1.0]], [[1.0]], None, ["train.jsonl", "lists of scores"]),
    "nothing": ([[], []], [["a"]], None, ["train.jsonl", "no list in column 'label' holds a class"]),
    "null": ([["a", None]], [["a"]], None, ["train.jsonl, line 1", "null"]),
    "true": ([["a"], [True]], [["a"]], None, ["train.jsonl, line 2", "True (bool)"]),
    "mixed": ([["a"], [1]], [["a"]], None, ["train.jsonl, line 2", "1 (int)"]),
    "lists in lists of a length": ([["a", "b"], [["a"], "b"]], [["a"]], None, ["train.jsonl, line 2", "['a'] (list)"]),
    "lists in lists": ([["a"], [["a"]]], [["a"]], None, ["train.jsonl, line 2", "['a'] (list)"]),
}


@pytest.mark.parametrize(("train", "validation", "names", "words"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_with_a_list_is_told_with_its_place(
    tmp_path: Path, train: list[Any], validation: list[Any], names: list[str] | None, words: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, names, train=train, validation=validation)
    for word in words:
        assert word in str(caught.value)


def test_repeated_texts_with_other_classes_are_dropped_and_rows_are_cut(tmp_path: Path) -> None:
    rows = [("same", ["a", "b"]), ("Same!", ["b", "a"]), ("other", ["a"]), ("other", ["b"]), ("last", [])]
    path = tiny_runs.write_jsonl(tmp_path / "a.jsonl", [{"text": text, "label": label} for text, label in rows])
    train = load_files({"train": path}, ["text"], "label").splits["train"]
    kept = deduplicate(train, ["text"])
    assert kept.to_dict() == {"text": ["same", "last"], "label": [[1.0, 1.0], [0.0, 0.0]]}
    parts = split(train, validation=0.4, test=0.0)
    assert {name: len(part) for name, part in parts.items()} == {"train": 3, "validation": 2}
