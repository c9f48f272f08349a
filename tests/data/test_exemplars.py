"""Exemplars: which rows stand for a class, and their file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hf_distill.data.exemplars import (
    Exemplar,
    choose_exemplars,
    exemplar_herding,
    quota,
    read_exemplars,
    shortened,
    write_exemplars,
)
from hf_distill.errors import DataError
from hf_distill.hub.folder import is_published
from tests import tiny


def test_a_shorter_list_is_the_beginning_of_a_longer_one() -> None:
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    whole = exemplar_herding(features, 12)
    assert sorted(whole) == list(range(12))
    assert exemplar_herding(features, 4) == whole[:4]


def test_equal_rows_are_taken_in_their_order_and_zeros_have_no_direction() -> None:
    assert exemplar_herding(torch.ones(3, 2), 2) == [0, 1]
    assert exemplar_herding(torch.zeros(3, 2), 3) == [0, 1, 2]


@pytest.mark.parametrize(
    ("features", "number", "message"),
    [
        (torch.ones(3, 2), 0, "0 exemplars of a class are asked for"),
        (torch.ones(0, 2), 1, r"features of shape \(0, 2\)"),
        (torch.ones(3), 1, r"features of shape \(3,\)"),
        (torch.full((2, 2), torch.nan), 1, "finite"),
    ],
)
def test_features_that_are_refused(features: torch.Tensor, number: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        exemplar_herding(features, number)


def test_a_budget() -> None:
    assert [quota(20, classes) for classes in (3, 20)] == [6, 1]
    with pytest.raises(DataError, match="a budget of 3 for 4 classes leaves none for a class; give at least 4"):
        quota(3, 4)


def test_rows_are_chosen_class_by_class_whatever_the_batches() -> None:
    """By the mean states of the last layer, worked out row by row; padding and dropout change nothing."""
    model = tiny.model("single_label", dropout=0.5)
    model.train()
    rows = tiny.rows("single_label", 10)
    labels = [i % 2 for i in range(10)]
    batches = [tiny.Pad(extra=2)(rows[start : start + 3]) for start in range(0, 10, 3)]
    found = choose_exemplars(model, batches, labels, 3)
    assert model.training
    model.eval()
    with torch.no_grad():
        ids = [torch.tensor([row["input_ids"]]) for row in rows]
        features = torch.stack([model(each, output_hidden_states=True).hidden_states[-1][0].mean(0) for each in ids])
    for label in (0, 1):
        numbers = list(range(label, 10, 2))
        assert found[label] == [numbers[i] for i in exemplar_herding(features[numbers], 3)]
    with pytest.raises(DataError, match="9 labels for 10 rows"):
        choose_exemplars(model, batches, labels[:9], 3)


def test_a_file_of_exemplars(tmp_path: Path) -> None:
    path = tmp_path / "exemplars.jsonl"
    made = [Exemplar(row, {"text": f"text {row}\n"}, "ab"[row % 2], "first") for row in (4, 1, 2, 3)]
    write_exemplars(path, made, "kind")
    assert read_exemplars(path, ["text"], "kind") == made
    assert [each.row for each in shortened(made, 1)] == [4, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["exemplars.jsonl"]
    assert not is_published("exemplars.jsonl")
    path.write_text('{"row": "4", "task": "", "kind": "a", "text": "b"}\n')
    with pytest.raises(DataError, match=r"line 1, column 'row': holds '4' \(str\), expected the number of a row"):
        read_exemplars(path, ["text"], "kind")
    with pytest.raises(DataError, match="the column 'row' is there twice"):
        write_exemplars(path, [Exemplar(0, {"row": "x"}, "a")])
    with pytest.raises(DataError, match=r"none/a\.jsonl: the exemplars cannot be written: No such file or directory"):
        write_exemplars(tmp_path / "none" / "a.jsonl", made, "kind")
    with pytest.raises(DataError, match="column 'words'"):
        read_exemplars(path, ["words"], "kind")
