"""Splits, repeated rows and the first n."""

from __future__ import annotations

import logging

import pytest
from datasets import ClassLabel, Dataset, Features, Value

from hf_distill.data.selection import deduplicate, split, truncate
from hf_distill.errors import DataError


def classes(*labels: int) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b", "c"])})
    return Dataset.from_dict({"text": [f"row {i}" for i in range(len(labels))], "label": list(labels)}, features)


SORTED = [0] * 60 + [1] * 40


def test_split_cuts_each_class_of_a_sorted_file_alike() -> None:
    parts = split(classes(*SORTED), validation=0.1, test=0.2)
    counts = {name: [part["label"][:].count(label) for label in (0, 1)] for name, part in parts.items()}
    assert counts == {"train": [42, 28], "validation": [6, 4], "test": [12, 8]}
    texts = [text for part in parts.values() for text in part["text"]]
    assert sorted(texts) == sorted(f"row {i}" for i in range(100))
    assert parts["train"].features["label"].names == ["a", "b", "c"]


def test_split_mixes_the_classes() -> None:
    labels = split(classes(*SORTED))["train"]["label"][:]
    assert 3 <= labels[:20].count(1) <= 15


def test_split_follows_the_seed_alone() -> None:
    first, again, other = (split(classes(*SORTED), seed=seed)["test"]["text"][:] for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_split_without_strata_ignores_the_classes() -> None:
    parts = split(classes(*SORTED), validation=0.0, test=0.25, stratify=False)
    assert list(parts) == ["train", "test"]
    assert (len(parts["train"]), len(parts["test"])) == (75, 25)


def test_split_of_a_regression_and_of_unlabelled_rows() -> None:
    scores = Dataset.from_dict({"text": list("abcdefghij"), "label": [i / 10 for i in range(10)]})
    for dataset in (scores, scores.remove_columns("label")):
        assert [len(part) for part in split(dataset, 0.2, 0.3).values()] == [5, 2, 3]


def test_a_class_of_one_row_stays_in_train() -> None:
    parts = split(classes(*[0] * 20, 1), 0.1, 0.1)
    assert 1 in parts["train"]["label"]


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5), (1.0, 0.0), (float("nan"), 0.1)])
def test_split_refuses_fractions_that_are_none(validation: float, test: float) -> None:
    with pytest.raises(DataError, match="must lie in"):
        split(classes(*SORTED), validation, test)


def test_split_refuses_to_leave_a_split_empty() -> None:
    with pytest.raises(DataError, match=r"0\.1 of 3 rows leaves 'validation' empty"):
        split(classes(0, 1, 2))
    with pytest.raises(DataError, match="the rest of 1 rows leaves 'train' empty"):
        split(classes(0), 0.9, 0.0)


def pairs(*rows: tuple[str, int]) -> Dataset:
    return Dataset.from_dict({"text": [text for text, _ in rows], "label": [label for _, label in rows]})


def test_deduplicate_compares_letters_and_digits_in_either_case(caplog: pytest.LogCaptureFixture) -> None:
    dataset = pairs(
        ("A good film!", 1),
        ("a GOOD film", 1),
        ("agood film .", 1),
        ("a good film 2", 1),
        ("Straße", 0),
        ("STRASSE", 0),
    )
    with caplog.at_level(logging.INFO):
        kept = deduplicate(dataset, ["text"])
    assert kept["text"][:] == ["A good film!", "a good film 2", "Straße"]
    assert "Of 6 rows, 3 were repeated, 0 had different labels; 3 are left." in caplog.text


def test_deduplicate_drops_all_rows_of_a_contradiction() -> None:
    kept = deduplicate(pairs(("so so", 0), ("fine", 1), ("So so.", 1), ("so so", 0)), ["text"])
    assert kept["text"][:] == ["fine"]
    with pytest.raises(DataError, match="each of the 2 rows"):
        deduplicate(pairs(("so so", 0), ("So so.", 1)), ["text"])


def test_deduplicate_keeps_apart_what_only_marks_or_symbols_tell_apart() -> None:
    texts = [":)", ":(", "?", "", "कि", "की", "é", "e"]
    assert deduplicate(Dataset.from_dict({"text": texts}), ["text"])["text"][:] == texts


def test_deduplicate_joins_the_two_ways_of_writing_an_accent() -> None:
    assert len(deduplicate(Dataset.from_dict({"text": ["caf\u00e9", "cafe\u0301"]}), ["text"])) == 1


def test_deduplicate_of_pairs_needs_both_texts_equal() -> None:
    dataset = Dataset.from_dict({"a": ["x", "x", "X", "xy"], "b": ["y", "z", "y!", ""], "label": [0, 1, 0, 1]})
    kept = deduplicate(dataset, ["a", "b"])
    assert kept["a"][:] == ["x", "x", "xy"]


def test_truncate_takes_the_first_rows() -> None:
    dataset = classes(0, 1, 2, 0)
    assert truncate(dataset, 3)["text"][:] == ["row 0", "row 1", "row 2"]
    assert truncate(dataset, None) is dataset
    assert truncate(dataset, 9) is dataset
    with pytest.raises(DataError, match="max_samples is 0"):
        truncate(dataset, 0)


def test_truncate_warns_where_classes_are_lost(caplog: pytest.LogCaptureFixture) -> None:
    truncate(classes(0, 1, 0, 1), 2)
    assert not caplog.records
    truncate(classes(*SORTED), 50)
    assert "The first 50 rows hold 1 of 2 classes" in caplog.text
