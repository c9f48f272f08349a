"""Rows that each bring another row of their class."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_distill.data.pairs import PairedCollator, PairedRows, Partners, pair_up
from hf_distill.errors import DataError
from hf_distill.passes import FOUND
from tests import tiny

CLASSES = [1, 0, 2, 1, 1, 0, -100, -100]


def test_a_partner_is_another_row_of_the_class() -> None:
    partners = Partners(CLASSES)
    assert partners.alone == [2]
    found = {row: {partners.of(row, epoch) for epoch in range(60)} for row in range(len(CLASSES))}
    assert found == {0: {3, 4}, 1: {5}, 2: {None}, 3: {0, 4}, 4: {0, 3}, 5: {1}, 6: {None}, 7: {None}}


def test_partners_are_drawn_evenly_and_anew_in_every_epoch() -> None:
    partners = Partners([0] * 5)
    drawn = Counter(partners.of(2, epoch) for epoch in range(2000))
    assert set(drawn) == {0, 1, 3, 4}
    assert min(drawn.values()) > 400  # 500 each: 5 standard deviations are 97
    assert drawn != Counter(partners.of(1, epoch) for epoch in range(2000))


def test_partners_follow_from_seed_epoch_and_row() -> None:
    one, same, other = (Partners([0, 1] * 20, seed) for seed in (3, 3, 4))
    rows = range(40)
    draws = [[each.of(row, 1) for row in rows] for each in (one, same, other)]
    assert draws[0] == draws[1] != draws[2]
    assert [one.of(row, 1) for row in reversed(rows)] == draws[0][::-1]
    assert [one.of(row, 2) for row in rows] != draws[0]


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([0, 1, 2], "no class has two of the 3 training rows"),
        ([-100, -100], "no class has two of the 2 training rows"),
        ([0.5, 0.5], r"labels are float64 of shape \(2,\).*single-label"),
        ([[0, 1], [0, 1]], r"of shape \(2, 2\)"),
    ],
)
def test_what_cannot_be_paired_is_refused(classes: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Partners(classes)


def test_a_class_of_one_row_is_warned_about_by_name(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        pair_up([{"labels": label} for label in CLASSES], 0, {2: "neutral"})
    assert "the classes 'neutral' have one training row each" in caplog.text


def test_labels_are_found_in_a_data_set(caplog: pytest.LogCaptureFixture) -> None:
    found = pair_up(Dataset.from_dict({"input_ids": [[1]] * 4, "label": [0, 1, 0, 1]}), 0, {})
    assert [found.of(row, 0) for row in range(4)] == [2, 3, 0, 1]
    assert not caplog.text
    with pytest.raises(DataError, match=r"no column 'labels' \(columns: input_ids\)"):
        pair_up(Dataset.from_dict({"input_ids": [[1]] * 4}), 0, {})


def test_a_stream_is_refused() -> None:
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self) -> Iterator[Any]:
            return iter(())

    with pytest.raises(DataError, match="those of a stream are not known"):
        pair_up(Stream(), 0, {})


def rows_of(number: int = 12) -> list[dict[str, Any]]:
    return tiny.rows("single_label", number)


def test_a_batch_holds_rows_and_partners_each_padded_for_itself() -> None:
    rows = rows_of()
    paired = PairedRows(rows, pair_up(rows, 0, {}))
    paired.set_epoch(3)
    chosen = [0, 5, 7]
    batch = PairedCollator(tiny.Pad())([paired[row] for row in chosen])
    plain = tiny.Pad()([rows[row] for row in chosen])
    assert list(batch)[: len(plain)] == list(plain)
    assert all(torch.equal(batch[name], plain[name]) for name in plain)
    partners = [paired.partners.of(row, 3) for row in chosen]
    expected = tiny.Pad()(
        [rows[row if partner is None else partner] for row, partner in zip(chosen, partners, strict=True)]
    )
    assert all(torch.equal(batch[f"partner_{name}"], value) for name, value in expected.items())
    assert batch[FOUND].tolist() == [partner is not None for partner in partners]
    assert torch.equal(batch["partner_labels"], batch["labels"])


def test_worker_processes_see_the_epoch() -> None:
    rows = rows_of()
    paired = PairedRows(rows, pair_up(rows, 0, {}))
    loader = DataLoader(
        paired, batch_size=4, collate_fn=PairedCollator(tiny.Pad()), num_workers=1, persistent_workers=True
    )
    for epoch in (0, 5):
        paired.set_epoch(epoch)
        found = torch.cat([batch["partner_input_ids"][:, 0] for batch in loader])
        expected = [rows[paired.partners.of(row, epoch)]["input_ids"][0] for row in range(len(rows))]
        assert found.tolist() == expected
