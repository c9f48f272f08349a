"""The order in which rows are drawn."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import PartialState
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from hf_distill.data.batching import GROUP, LengthGroupedSampler
from hf_distill.errors import DataError

LENGTHS = np.random.default_rng(7).lognormal(3.0, 0.6, size=4001).astype(int).clip(3, 128).tolist()


def batches(lengths: list[int], batch_size: int, seed: int = 0, epoch: int = 0) -> list[list[int]]:
    sampler = LengthGroupedSampler(lengths, batch_size, seed)
    sampler.set_epoch(epoch)
    order = list(sampler)
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 1), (3, 8), (8, 8), (9, 8), (4001, 16), (1600, 32)])
def test_every_row_once(rows: int, batch_size: int) -> None:
    sampler = LengthGroupedSampler(LENGTHS[:rows], batch_size)
    assert sorted(sampler) == list(range(rows))
    assert len(sampler) == rows


@pytest.mark.parametrize("rows", [8, 9, 15, 401, 4001])
@pytest.mark.parametrize("epoch", [0, 1])
def test_the_longest_row_comes_first_and_the_short_batch_last(rows: int, epoch: int) -> None:
    lengths = [10] * rows
    lengths[rows // 2] = 99
    drawn = batches(lengths, 8, epoch=epoch)
    assert drawn[0][0] == rows // 2
    assert {len(batch) for batch in drawn[:-1]} <= {8}
    assert len(drawn[-1]) == (rows % 8 or 8)


def test_padding_almost_vanishes() -> None:
    """Cells per real token, a batch being as wide as its longest row: 2.58 in random order, 1.05 here."""

    def cells_per_token(drawn: list[list[int]]) -> float:
        cells = sum(len(batch) * max(LENGTHS[row] for row in batch) for batch in drawn)
        return cells / sum(LENGTHS)

    order = list(range(len(LENGTHS)))
    random.Random(0).shuffle(order)
    shuffled = [order[start : start + 16] for start in range(0, len(order), 16)]
    assert cells_per_token(shuffled) > 2.4
    assert cells_per_token(batches(LENGTHS, 16)) < 1.1


def test_batches_come_in_mixed_order() -> None:
    widths = [max(LENGTHS[row] for row in batch) for batch in batches(LENGTHS, 16)[1:-1]]
    falls = sum(first > second for first, second in pairwise(widths))
    assert 0.4 < falls / len(widths) < 0.6


def test_rows_meet_others_in_other_epochs() -> None:
    first, second = ({frozenset(batch) for batch in batches(LENGTHS, 16, epoch=epoch)} for epoch in (0, 1))
    assert len(first & second) <= 1


def test_a_group_holds_fifty_batches() -> None:
    lengths = list(range(GROUP * 4))
    assert GROUP == 50
    assert sorted(tuple(batch) for batch in batches(lengths, 4)) == [
        (i + 3, i + 2, i + 1, i) for i in range(0, 200, 4)
    ]


def test_the_order_follows_seed_and_epoch_alone() -> None:
    expected = batches(LENGTHS, 16, seed=3, epoch=2)
    torch.manual_seed(5)
    sampler = LengthGroupedSampler(LENGTHS, 16, seed=3)
    for epoch in (2, 0, 2):
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert (order == [row for batch in expected for row in batch]) == (epoch == 2)
    assert list(sampler) == order
    assert batches(LENGTHS, 16, seed=2, epoch=3) != expected


def test_drawing_leaves_the_global_random_states_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(LengthGroupedSampler(LENGTHS, 16))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("lengths", "batch_size", "seed", "word"),
    [
        ([], 1, 0, "lengths"),
        ([1, -1], 1, 0, "lengths"),
        ([[1]], 1, 0, "lengths"),
        ([1], 0, 0, "batch_size 0"),
        ([1], 1, -1, "seed -1"),
    ],
)
def test_arguments_are_checked(lengths: Any, batch_size: int, seed: int, word: str) -> None:
    with pytest.raises(DataError, match=word):
        LengthGroupedSampler(lengths, batch_size, seed)


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_hands_the_epoch_on_and_the_processes_share_the_rows(processes: int) -> None:
    PartialState()
    lengths = LENGTHS[:64]
    expected = batches(lengths, 4, seed=1, epoch=2)
    for rank in range(processes):
        sampler = LengthGroupedSampler(lengths, 4, seed=1)
        loader = DataLoader(list(range(64)), batch_size=4, sampler=sampler)
        shard = prepare_data_loader(loader, num_processes=processes, process_index=rank, put_on_device=False)
        shard.set_epoch(2)
        assert [batch.tolist() for batch in shard] == expected[rank::processes]


@pytest.mark.parametrize("processes", [1, 2])
def test_skipping_reaches_the_same_place(processes: int) -> None:
    """Under several processes a loader that skips hands the epoch on only to a sampler given by `set_sampler`."""
    PartialState()
    lengths = LENGTHS[:64]
    expected = batches(lengths, 4, seed=1, epoch=2)
    for rank in range(processes):
        sampler = LengthGroupedSampler(lengths, 4, seed=1)
        loader = DataLoader(list(range(64)), batch_size=4, sampler=sampler)
        shard = prepare_data_loader(loader, num_processes=processes, process_index=rank, put_on_device=False)
        shard.set_sampler(sampler)
        rest = skip_first_batches(shard, 3)
        rest.set_epoch(2)
        assert [batch.tolist() for batch in rest] == expected[rank::processes][3:]


class Recorder(nn.Module):
    """A model that notes which rows it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []

    def forward(self, row: Tensor) -> dict[str, Tensor]:
        self.seen.append(row.tolist())
        return {"loss": (self.weight - 1.0) ** 2}


class LengthGroupedTrainer(Trainer):
    def _get_train_sampler(self, train_dataset: Any = None) -> LengthGroupedSampler:
        return LengthGroupedSampler(LENGTHS[:20], self.args.train_batch_size, self.args.seed)


def train(folder: Path, resume_from: str | None = None) -> list[list[int]]:
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=3,
        per_device_train_batch_size=4,
        save_steps=7,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    model = Recorder()
    trainer = LengthGroupedTrainer(model, arguments, train_dataset=[{"row": row} for row in range(20)])
    trainer.train(resume_from_checkpoint=resume_from)
    return model.seen


def test_a_trainer_resumes_in_the_middle_of_a_later_epoch(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole")
    expected = [batch for epoch in range(3) for batch in batches(LENGTHS[:20], 4, seed=42, epoch=epoch)]
    assert whole == expected
    assert train(tmp_path / "resumed", str(tmp_path / "whole" / "checkpoint-7")) == expected[7:]
