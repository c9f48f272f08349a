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
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainingArguments

from hf_distill.data.batching import ALIKE, GROUP, LengthGroupedSampler, TokenBudgetSampler, lengths_of
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


@pytest.mark.parametrize(("batch_size", "processes", "accumulation"), [(2, 4, 2), (4, 2, 2), (16, 1, 1), (4, 4, 1)])
def test_a_window_holds_the_same_rows_however_it_is_cut(batch_size: int, processes: int, accumulation: int) -> None:
    expected = [frozenset(batch) for batch in batches(LENGTHS, 16, seed=3)]
    sampler = LengthGroupedSampler(LENGTHS, batch_size, 3, processes=processes, accumulation=accumulation)
    order = list(sampler)
    assert [frozenset(order[start : start + 16]) for start in range(0, len(order), 16)] == expected


def test_the_batches_of_one_turn_are_alike() -> None:
    """Padded widths of eight processes, which differ by little where random batches differ by half."""
    order = list(LengthGroupedSampler(LENGTHS, 4, processes=8, accumulation=2))
    widths = np.asarray([max(LENGTHS[row] for row in order[i : i + 4]) for i in range(0, 3968, 4)]).reshape(-1, 8)
    assert (widths.max(1) / widths.mean(1)).mean() < 1.03
    # dealt one by one, so nowhere does the last process get a shorter row than the first one's next
    lengths = np.asarray([LENGTHS[row] for row in order[:3968]]).reshape(-1, 8, 4)
    assert (lengths[:, -1, :-1] >= lengths[:, 0, 1:]).all()
    assert (np.diff(lengths, axis=1) <= 0).all()


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


# ---- a budget of tokens ----


def budgeted(
    lengths: list[int], tokens: int, *, seed: int = 0, epoch: int = 0, processes: int = 1, drop_last: bool = False
) -> list[list[int]]:
    sampler = TokenBudgetSampler(lengths, tokens, seed, processes=processes, drop_last=drop_last)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


def cells(batch: list[int], lengths: list[int] = LENGTHS) -> int:
    return len(batch) * max(lengths[row] for row in batch)


@pytest.mark.parametrize("tokens", [128, 500, 2048])
@pytest.mark.parametrize("epoch", [0, 3])
def test_no_batch_has_more_cells_than_the_budget_and_every_row_comes_once(tokens: int, epoch: int) -> None:
    drawn = budgeted(LENGTHS, tokens, epoch=epoch)
    assert max(map(cells, drawn)) <= tokens
    assert sorted(row for batch in drawn for row in batch) == list(range(len(LENGTHS)))


def test_a_budget_leaves_little_padding_and_little_room() -> None:
    """Rows count as up to 1 / ALIKE of their length, and the room of less than a row is lost."""
    drawn = budgeted(LENGTHS, 512)
    assert sum(map(cells, drawn)) <= 1.07 * sum(LENGTHS)
    assert sum(LENGTHS) >= 0.9 * 512 * len(drawn)


def test_batches_are_cut_where_the_budget_is_full() -> None:
    """By hand: 100 and 95 count as 100, 89 and 81 as 89, 40 as itself."""
    assert ALIKE == 0.9
    lengths = [40, 100, 81, 95, 89, 81]
    drawn = [sorted(lengths[row] for row in batch) for batch in budgeted(lengths, 200)]
    assert sorted(drawn) == [[40, 81], [81, 89], [95, 100]]
    assert drawn[0] == [95, 100]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_longest_row_comes_in_the_first_batch(processes: int) -> None:
    for epoch in range(3):
        assert LENGTHS[budgeted(LENGTHS, 512, epoch=epoch, processes=processes)[0][0]] == max(LENGTHS)


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_processes_get_as_many_batches_of_nearly_as_many_rows_and_tokens(processes: int) -> None:
    drawn = budgeted(LENGTHS, 512, processes=processes)
    assert len(drawn) % processes == 0
    assert max(map(cells, drawn)) <= 512
    assert {row for batch in drawn for row in batch} == set(range(len(LENGTHS)))
    assert sum(map(len, drawn)) - len(LENGTHS) < processes
    for start in range(0, len(drawn), processes):
        turn = drawn[start : start + processes]
        sizes = [len(batch) for batch in turn]
        assert max(sizes) - min(sizes) <= 1
        tokens = [sum(LENGTHS[row] for row in batch) for batch in turn]
        assert max(tokens) - min(tokens) <= max(LENGTHS[row] for batch in turn for row in batch)


@pytest.mark.parametrize(("rows", "processes", "repeated"), [(5, 2, 1), (7, 4, 1), (1, 3, 2), (9, 4, 3), (8, 4, 0)])
def test_too_few_rows_in_the_end_are_filled_up_or_left_out(rows: int, processes: int, repeated: int) -> None:
    """One row fits a batch, so that each step takes a row for every process."""
    drawn = budgeted([10] * rows, 10, processes=processes)
    assert len(drawn) == -(-rows // processes) * processes
    assert all(len(batch) == 1 for batch in drawn)
    assert len(drawn) - len({batch[0] for batch in drawn}) == repeated
    left = budgeted([10] * rows, 10, processes=processes, drop_last=True)
    assert len(left) == max(rows // processes, 1) * processes


@pytest.mark.parametrize(
    ("lengths", "tokens", "processes"),
    [
        ([10] * 5, 20, 2),
        ([10] * 9, 20, 4),
        ([10] * 13, 30, 4),
        ([10] * 2 + [5] * 5, 10, 2),
        ([20] * 3 + [9] * 8, 20, 3),
    ],
)
def test_too_few_rows_in_the_end_are_made_up_from_the_step_before(
    lengths: list[int], tokens: int, processes: int
) -> None:
    drawn = budgeted(lengths, tokens, processes=processes)
    assert len(drawn) % processes == 0
    assert sorted(row for batch in drawn for row in batch) == list(range(len(lengths)))
    assert all(batch and cells(batch, lengths) <= tokens for batch in drawn)
    left = budgeted(lengths, tokens, processes=processes, drop_last=True)
    assert len(left) == len(drawn) - processes


def test_every_epoch_has_as_many_batches_and_other_neighbours() -> None:
    lengths = np.random.default_rng(3).integers(3, 120, 4001).tolist()
    epochs = [budgeted(lengths, 1024, epoch=epoch) for epoch in range(4)]
    assert len({len(drawn) for drawn in epochs}) == 1
    assert epochs[0] != epochs[1]
    batches_of = [{frozenset(batch) for batch in drawn} for drawn in epochs[:2]]
    assert len(batches_of[0] & batches_of[1]) < 0.02 * len(epochs[0])
    assert budgeted(lengths, 1024, epoch=2) == epochs[2]
    assert budgeted(lengths, 1024, epoch=2, seed=1) != epochs[2]


def test_budgets_leave_the_global_random_states_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    budgeted(LENGTHS, 512)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()


def test_a_row_above_the_budget_is_an_error() -> None:
    with pytest.raises(DataError, match="a row has 57 tokens, and tokens_per_batch is 50"):
        TokenBudgetSampler([3, 57, 40], 50)
    with pytest.raises(DataError, match="processes 0"):
        TokenBudgetSampler([3], 50, processes=0)


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate_deals_the_batches_and_skips_to_the_same_place(processes: int) -> None:
    PartialState()
    expected = budgeted(LENGTHS[:64], 128, seed=1, epoch=2, processes=processes)
    for rank in range(processes):
        sampler = TokenBudgetSampler(LENGTHS[:64], 128, seed=1, processes=processes)
        loader = DataLoader(list(range(64)), batch_sampler=sampler)
        shard = prepare_data_loader(
            loader, num_processes=processes, process_index=rank, put_on_device=False, even_batches=False
        )
        assert len(shard) == len(expected) // processes
        shard.set_epoch(2)
        sampler.set_epoch(2)  # as the trainer does: a loader of several processes does not reach it
        assert [batch.tolist() for batch in shard] == expected[rank::processes]
        rest = skip_first_batches(shard, 3)
        rest.set_epoch(2)
        sampler.set_epoch(2)
        assert [batch.tolist() for batch in rest] == expected[rank::processes][3:]


def test_lengths_come_from_the_column_or_from_the_ids() -> None:
    ids = [[1], [1, 2, 3], [1, 2]]
    plain = [{"input_ids": row} for row in ids]
    assert lengths_of(plain, "length").tolist() == [1, 3, 2]
    assert lengths_of(Dataset.from_list(plain), "length").tolist() == [1, 3, 2]
    named = Dataset.from_dict({"input_ids": ids, "length": [7, 8, 9]})
    assert lengths_of(named, "length").tolist() == [7, 8, 9]


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
