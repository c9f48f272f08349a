"""Sentences, pairs and what stands beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import normalizers, processors

from hf_distill.data import files
from hf_distill.data.sentences import Padded, Pairs, checked, distinct, tokenize_texts
from hf_distill.errors import DataError
from tests import tiny_runs


def table(folder: Path, *rows: dict[str, Any], name: str = "rows.jsonl") -> files.Table:
    tiny_runs.write_jsonl(folder / name, rows)
    return files.read(folder / name, [*rows[0]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"one": " \t", "two": "b", "gold": 1.0}, r"line 2, column 'one': is empty"),
        ({"one": None, "two": "b", "gold": 1.0}, r"line 2, column 'one': holds null, expected text"),
        (
            {"one": "a", "two": "b", "gold": 5.5},
            r"line 2, column 'gold': the score is 5\.5; gold scores go from 0 to 5",
        ),
        ({"one": "a", "two": "b", "gold": -1}, r"line 2, column 'gold': the score is -1;"),
        (
            {"one": "a", "two": "b", "gold": float("nan")},
            r"line 2, column 'gold': holds nan .*expected a finite number",
        ),
        ({"one": "a", "two": "b", "gold": "3"}, r"line 2, column 'gold': holds '3' \(str\), expected a finite number"),
        ({"one": "a", "two": "b", "gold": True}, r"column 'gold': holds True"),
    ],
)
def test_rows_that_say_nothing_are_refused(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    given = table(tmp_path, {"one": "a", "two": "b", "gold": 0}, row)
    with pytest.raises(DataError, match=message):
        checked(given, ["one", "two"], "gold", None)


def test_numbers_of_a_csv_are_read_and_margins_may_be_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("one,gold,margin\na,4.5,-17.25\n", encoding="utf-8")
    rows = checked(files.read(path, ["one", "gold", "margin"]), ["one"], "gold", "margin")
    assert rows[0] == {"one": "a", "gold": 4.5, "margin": -17.25}
    path.write_text("one,margin\na,inf\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"column 'margin': holds 'inf' \(str\), expected a finite number"):
        checked(files.read(path, ["one", "margin"]), ["one"], None, "margin")


def test_each_text_is_read_once(tmp_path: Path) -> None:
    rows = [
        {"one": "a", "two": "b", "gold": 1},
        {"one": "c", "two": "a", "gold": 2},
        {"one": "a", "two": "b", "gold": 3},
    ]
    found = checked(table(tmp_path, *rows), ["one", "two"], "gold", None)
    assert distinct(found, ["one", "two"]) == ["a", "b", "c"]
    pairs = Pairs.of(found, ["one", "two"], "gold")
    assert pairs.texts == ["a", "b", "c"]
    assert (pairs.first.tolist(), pairs.second.tolist()) == ([0, 2, 0], [1, 0, 1])
    assert pairs.scores is not None
    assert pairs.scores.tolist() == [1.0, 2.0, 3.0]


def test_texts_beside_a_row_are_padded_to_their_own_longest() -> None:
    tokenizer = tiny_runs.tokenizer()
    texts = {"text": ["good film", "bad"], "positive": ["a", "a very very fine plot"]}
    rows = tokenize_texts(texts, tokenizer, max_length=6, numbers={"margin": [0.5, -1.0]}, desc="tokenising")
    assert rows["length"][:] == [4, 3]
    batch = Padded(tokenizer)([{k: v for k, v in row.items() if k != "length"} for row in rows])
    assert batch["input_ids"].tolist() == tokenizer(texts["text"], padding=True)["input_ids"]
    longer = tokenizer(texts["positive"], padding=True, truncation=True, max_length=6)
    assert batch["positive_input_ids"].tolist() == longer["input_ids"]
    assert batch["positive_attention_mask"].tolist() == longer["attention_mask"]
    assert batch["margin"].dtype == torch.float32
    assert batch["margin"].tolist() == [0.5, -1.0]


def test_a_text_beside_a_row_without_a_token_is_refused() -> None:
    tokenizer = tiny_runs.tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.Sequence([])
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    texts = {"text": ["good", "bad"], "positive": ["a", " "]}
    with pytest.raises(DataError, match=r"tokenising: positive of row 2 has no token that the tokenizer knows"):
        tokenize_texts(texts, tokenizer, max_length=6, numbers={}, desc="tokenising")
