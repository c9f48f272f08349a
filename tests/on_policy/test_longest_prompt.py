"""The longest prompt of a data set, against a search row by row."""

from __future__ import annotations

import random
from typing import Any

import pytest
from datasets import Dataset

from hf_distill.tasks import PROMPT_TOKENS
from hf_distill.training.longest_prompt import longest_prompt


def drawn(seed: int, number: int = 40) -> list[dict[str, Any]]:
    numbers = random.Random(seed)
    rows = []
    for _ in range(number):
        length = numbers.randint(1, 30)
        labels = [5 if numbers.random() < 0.15 else -100 for _ in range(length)]
        rows.append({"input_ids": [5] * length, "labels": labels, PROMPT_TOKENS: numbers.randint(0, 40)})
    return rows


def before_first_label(row: dict[str, Any]) -> int:
    return next((i for i, label in enumerate(row["labels"]) if label != -100), len(row["labels"]))


@pytest.mark.parametrize("seed", range(8))
def test_it_is_that_of_a_search_row_by_row(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_distill.training.longest_prompt._AT_ONCE", 7)
    rows = drawn(seed)
    whole = Dataset.from_list(rows)
    picked = random.Random(seed).sample(range(40), 25)
    for dataset, kept in ((whole, rows), (whole.select(picked), [rows[i] for i in picked])):
        plain = dataset.remove_columns(PROMPT_TOKENS)
        found = [
            (longest_prompt(plain, decoder=True, prompt_tokens=None), before_first_label),
            (longest_prompt(dataset, decoder=True, prompt_tokens=None), lambda row: row[PROMPT_TOKENS]),
            (longest_prompt(plain, decoder=True, prompt_tokens=4), lambda row: len(row["input_ids"])),
            (longest_prompt(plain, decoder=False, prompt_tokens=None), lambda row: len(row["input_ids"])),
        ]
        for row, length in found:
            assert row is not None
            assert length(kept[row]) == max(map(length, kept))


def test_rows_that_no_column_tells_of() -> None:
    rows = drawn(0)
    whole = Dataset.from_list(rows)
    transformed = whole.with_transform(lambda batch: batch)
    bare = whole.select_columns("input_ids")
    for dataset in (rows, whole.to_iterable_dataset(), transformed, bare, whole.select([])):
        assert longest_prompt(dataset, decoder=True, prompt_tokens=None) is None
