"""Training rows that know their number, however they are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader, Subset

from hf_distill.data.masking import unmasked
from hf_distill.data.numbering import numbered
from hf_distill.data.packing import Layout
from hf_distill.data.pretraining import PackedRows
from hf_distill.data.streams import TextFiles
from hf_distill.data.token_store import stored
from tests import tiny_runs

ROWS = [{"x": 10 * i} for i in range(6)]


class Fetched(list[dict[str, int]]):
    """Rows that are fetched together, as torch's fetcher prefers it; `fetched` keeps which."""

    def __init__(self, rows: list[dict[str, int]]) -> None:
        super().__init__(rows)
        self.fetched: list[list[int]] = []

    def __getitems__(self, numbers: list[int]) -> list[dict[str, int]]:
        self.fetched.append(numbers)
        return [self[number] for number in numbers]


def batches(rows: Any, **settings: Any) -> list[list[dict[str, Any]]]:
    return list(DataLoader(rows, batch_size=2, collate_fn=list, **settings))


@pytest.mark.parametrize("workers", [0, 1])
def test_rows_of_a_subset_are_numbered_in_a_loader(workers: int) -> None:
    found = batches(numbered(Subset(ROWS, [4, 0, 2])), num_workers=workers)
    assert found == [[{"x": 40, "row_index": 0}, {"x": 0, "row_index": 1}], [{"x": 20, "row_index": 2}]]


def test_rows_that_are_fetched_together_still_are() -> None:
    rows = Fetched(ROWS)
    assert batches(numbered(rows), sampler=[5, 1]) == [[{"x": 50, "row_index": 5}, {"x": 10, "row_index": 1}]]
    assert rows.fetched == [[5, 1]]


def test_a_row_has_one_number_in_all_epochs(tmp_path: Path) -> None:
    """Of packed rows a number says row and epoch at once."""
    text = tmp_path / "a.txt"
    text.write_text("\n".join(tiny_runs.sentence(i)[0] for i in range(5)))
    tokenizer = tiny_runs.tokenizer()
    layout = Layout.of(tokenizer, 32, "none")
    packed = PackedRows([stored(TextFiles((text,)), tokenizer, layout, tmp_path)], unmasked)
    rows = numbered(packed)
    size = len(rows)
    assert size == 5
    for epoch in range(3):
        sampler = rows.epoch_sampler(0, 2)
        sampler.set_epoch(epoch)
        found = [row for batch in batches(rows, sampler=sampler) for row in batch]
        assert sorted(row["row_index"] for row in found) == [0, 1, 2, 3, 4]
        for row in found:
            assert row["input_ids"].tolist() == packed[row["row_index"]]["input_ids"].tolist()
