"""Rows made of what a teacher wrote."""

from __future__ import annotations

import math

import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq

from hf_distill.data.hypotheses import WithHypotheses, with_hypotheses
from hf_distill.data.sentence_bleu import sentence_bleu
from hf_distill.errors import DataError
from hf_distill.teachers.generation import Hypothesis
from tests import writers

ROWS = Dataset.from_dict({"source": ["x", "y"], "target": ["a b c d e", "f g"]})


def written(*texts: str) -> list[Hypothesis]:
    return [Hypothesis(text, (i,), -1.0 - i, True) for i, text in enumerate(texts)]


HYPOTHESES = [written("a", "a b c d", "b c d e"), written("f")]


def test_the_best_takes_the_place_of_the_target() -> None:
    found = with_hypotheses(ROWS, HYPOTHESES, "target", "best")
    assert found.to_dict() == {"source": ["x", "y"], "target": ["a", "f"]}


def test_the_nearest_is_that_of_the_highest_bleu_and_of_equals_the_most_probable() -> None:
    found = with_hypotheses(ROWS, HYPOTHESES, "target", "nearest")
    assert sentence_bleu("a b c d", ROWS["target"][0]) == sentence_bleu("b c d e", ROWS["target"][0])
    assert found["target"][:] == ["a b c d", "f"]
    ranked = with_hypotheses(ROWS, [HYPOTHESES[0][::-1], HYPOTHESES[1]], "target", "nearest")
    assert ranked["target"][:] == ["a b c d", "f"]


def test_all_are_rows_with_the_scores_of_their_source() -> None:
    found = with_hypotheses(ROWS, HYPOTHESES, "target", "all").to_dict()
    assert found["source"] == ["x", "x", "x", "y"]
    assert found["target"] == ["a", "a b c d", "b c d e", "f"]
    assert found["hypothesis"] == [0, 1, 2, 0]
    assert found["hypothesis_scores"] == [[-1.0, -2.0, -3.0]] * 3 + [[-1.0, -math.inf, -math.inf]]


def test_a_collator_of_texts_takes_them_as_they_are() -> None:
    rows = with_hypotheses(ROWS, HYPOTHESES, "target", "all")
    rows = rows.map(lambda _row: {"input_ids": [5, 2], "labels": [4, 2]}, remove_columns=["source", "target"])
    batch = DataCollatorForSeq2Seq(writers.tokenizer())([rows[i] for i in range(4)])
    assert batch["hypothesis"].tolist() == [0, 1, 2, 0]
    assert batch["hypothesis_scores"].dtype == torch.float32
    assert batch["hypothesis_scores"][3].tolist() == [-1.0, -math.inf, -math.inf]


@pytest.mark.parametrize("choice", ["best", "nearest", "all"])
def test_a_row_without_hypotheses_is_named(choice: str) -> None:
    with pytest.raises(DataError, match="row 2 has no hypothesis"):
        with_hypotheses(ROWS, [written("a"), []], "target", choice)
    with pytest.raises(DataError, match="hypotheses of 1 rows, and 2 rows"):
        with_hypotheses(ROWS, [written("a")], "target", choice)


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(DataError, match="'worst'; it may be best, nearest, all"):
        with_hypotheses(ROWS, HYPOTHESES, "target", "worst")


def test_hypotheses_of_sounds_are_padded() -> None:
    items = [
        {"x": 1, "hypotheses": [[1, 2], [3]], "hypothesis_scores": [-0.5, -1.5]},
        {"x": 2, "hypotheses": [[4, 5, 6]], "hypothesis_scores": [-2.0]},
    ]
    batch = WithHypotheses(lambda rows: {"columns": sorted(rows[0])})(items)
    assert batch["columns"] == ["x"]
    assert batch["hypotheses"].tolist() == [[[1, 2, -100], [3, -100, -100]], [[4, 5, 6], [-100] * 3]]
    assert batch["hypothesis_scores"].tolist() == [[-0.5, -1.5], [-2.0, -math.inf]]
    with pytest.raises(DataError, match="row 1 of a batch has 1 hypotheses and 2 scores"):
        WithHypotheses(lambda rows: {})([{"hypotheses": [[1]], "hypothesis_scores": [0.0, 0.0]}])


@pytest.mark.parametrize(
    ("found", "reference", "expected"),
    [
        ("a b c d e", "a b c d e", 1.0),
        ("a b c d", "a b c d e", math.exp(1 - 5 / 4)),
        # 4 of 5 words; of pairs ab bc, of triples abc: 3/5, 2/4; of four 1/3.
        ("a b c x e", "a b c d e", (4 / 5 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25),
        # a once, although it is there twice.
        ("a a", "a b", (1 / 2 * 1 / 2 * 1 * 1) ** 0.25),
        ("b a c", "a b", (2 / 3 * 1 / 3 * 1 / 2 * 1) ** 0.25),
        ("x y", "a b", 0.0),
        ("", "a b", 0.0),
        ("a", "", 0.0),
    ],
)
def test_bleu_of_a_sentence(found: str, reference: str, expected: float) -> None:
    assert sentence_bleu(found, reference) == pytest.approx(expected, abs=1e-12)
