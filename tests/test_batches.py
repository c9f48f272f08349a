"""Batches with a budget of tokens, and what a stage trains with by default."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import DataLoaderConfiguration
from datasets import Dataset, IterableDataset
from safetensors.torch import load_file

from hf_distill import DistillationTrainer, HiddenMSE, Labels, SoftTargets, checkpoints
from hf_distill.data.batching import TokenBudgetSampler
from hf_distill.errors import BrokenCheckpoint, DataError, DistillationError
from hf_distill.hub.trained import record_of
from hf_distill.runs.arguments import training_arguments
from tests import tiny
from tests.processes import on_processes

ROWS = tiny.rows("single_label", 60, longest=40)
LENGTHS = [len(row["input_ids"]) for row in ROWS]


def trainer_for(task: str = "single_label", arguments: dict[str, Any] | None = None, **given: Any):
    torch.manual_seed(0)
    settings = {
        "model": tiny.model(task, seed=1),
        "teacher": tiny.model(task, layers=4, hidden=48, seed=2),
        "objectives": 0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels() + HiddenMSE(),
        "train_dataset": ROWS,
        "data_collator": tiny.Pad(),
        "tokens_per_batch": 200,
        "args": tiny.arguments(**{"max_steps": -1, "num_train_epochs": 2, **(arguments or {})}),
    }
    return DistillationTrainer(**{**settings, **given})


class Seen(tiny.Pad):
    """A collator that notes what batches it made."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[list[tuple[int, ...]]] = []
        self.cells: list[int] = []

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        self.batches.append([tuple(item["input_ids"]) for item in items])
        batch = super().__call__(items)
        self.cells.append(batch["input_ids"].numel())
        return batch


def test_a_trainer_reads_batches_within_their_budget_and_every_row_once_an_epoch() -> None:
    seen = Seen()
    trainer = trainer_for(data_collator=seen)
    trainer.train()
    steps = len(TokenBudgetSampler(LENGTHS, 200))
    assert len(trainer.get_train_dataloader()) == steps
    assert trainer.state.global_step == trainer.state.max_steps == 2 * steps
    assert trainer.state.epoch == 2.0
    made = seen.batches[: 2 * steps]
    assert max(seen.cells) <= 200
    for epoch in range(2):
        rows = [row for batch in made[epoch * steps : (epoch + 1) * steps] for row in batch]
        assert sorted(rows) == sorted(tuple(row["input_ids"]) for row in ROWS)
    assert made[:steps] != made[steps:]


def test_the_learning_rate_falls_to_nothing_at_the_last_step() -> None:
    trainer = trainer_for(arguments={"lr_scheduler_type": "linear", "gradient_accumulation_steps": 3})
    trainer.train()
    steps = 2 * math.ceil(len(TokenBudgetSampler(LENGTHS, 200)) / 3)
    rates = [row["learning_rate"] for row in trainer.state.log_history if "learning_rate" in row]
    assert rates == pytest.approx([0.1 * (1 - step / steps) for step in range(steps)])


@pytest.mark.parametrize("task", ["single_label", "masked_lm"])
def test_unequal_micro_batches_weigh_as_one_large_batch(task: str) -> None:
    """One step over all rows, in five batches of other sizes, and in one."""
    rows = tiny.rows(task, 24, longest=40)
    lengths = [len(row["input_ids"]) for row in rows]
    sizes = [len(batch) for batch in TokenBudgetSampler(lengths, 160)]
    assert len(set(sizes)) > 2
    one_step = {"num_train_epochs": 1}
    cut = trainer_for(
        task,
        train_dataset=rows,
        tokens_per_batch=160,
        arguments={**one_step, "gradient_accumulation_steps": len(sizes)},
    )
    whole = trainer_for(
        task, train_dataset=rows, tokens_per_batch=None, arguments={**one_step, "per_device_train_batch_size": 24}
    )
    for trainer in (cut, whole):
        trainer.train()
        assert trainer.state.global_step == 1
    assert tiny.distance(cut.distillation, whole.distillation) < 1e-6
    assert tiny.distance(cut.model, tiny.model(task, seed=1)) > 1e-3
    assert cut.state.log_history[0]["loss"] == pytest.approx(whole.state.log_history[0]["loss"], abs=1e-5)


def test_a_resumed_run_is_bitwise_the_uninterrupted_one(tmp_path: Path) -> None:
    """With dropout and accumulation, in the middle of the first epoch and of the second."""
    arguments = {
        "output_dir": str(tmp_path / "whole"),
        "save_strategy": "steps",
        "save_steps": 1,
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-3,
        "gradient_accumulation_steps": 2,
    }
    student = {"model": tiny.model("single_label", seed=1, dropout=0.1), "train_dataset": Dataset.from_list(ROWS)}
    whole = trainer_for(arguments=arguments, **student)
    whole.train()
    per_epoch = whole.state.max_steps // 2
    assert per_epoch > 2
    for step in (1, per_epoch + 1):
        again = trainer_for(
            arguments=arguments, **{**student, "model": tiny.model("single_label", seed=1, dropout=0.1)}
        )
        again.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert tiny.distance(whole.distillation, again.distillation) == 0.0, step


@pytest.mark.parametrize("budget", [150, None])
def test_another_budget_does_not_go_on_in_the_middle_of_an_epoch(budget: int | None, tmp_path: Path) -> None:
    """Its batches are others, so those that are skipped are not those that were trained on, unless none are."""
    arguments = {"output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_for(arguments=arguments).train()
    arguments["max_steps"] = 3
    with pytest.raises(BrokenCheckpoint, match=rf"tokens_per_batch=200, and {budget} is asked .* ignore_data_skip"):
        trainer_for(arguments=arguments, tokens_per_batch=budget).train(resume_from_checkpoint=True)
    trainer = trainer_for(arguments={**arguments, "ignore_data_skip": True}, tokens_per_batch=budget)
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 3


@pytest.mark.parametrize("text", ["[" * 200_000, "{", "\xff"])
def test_arguments_of_a_checkpoint_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    (tmp_path / checkpoints.ARGUMENTS).write_text(text, encoding="latin-1")
    with pytest.raises(BrokenCheckpoint, match=r"training_arguments.json cannot be read"):
        checkpoints.check_same_budget(tmp_path, 200)


def test_the_rows_of_a_step_are_told_as_their_mean() -> None:
    trainer = trainer_for(arguments={"gradient_accumulation_steps": 2})
    assert trainer.get_total_train_batch_size(trainer.args) == 16, "before there are batches: the Trainer's own"
    batches = len(trainer.get_train_dataloader())
    assert trainer.get_total_train_batch_size(trainer.args) == round(60 * 2 / batches)


def test_the_record_tells_of_the_budget_in_place_of_rows() -> None:
    arguments = record_of(trainer_for()).training_arguments
    assert (arguments["tokens_per_batch"], arguments["per_device_train_batch_size"]) == (200, None)
    assert "tokens_per_batch" not in record_of(trainer_for(tokens_per_batch=None)).training_arguments


def test_workers_read_the_same_batches() -> None:
    alone = [batch["input_ids"] for batch in trainer_for().get_train_dataloader()]
    workers = trainer_for(arguments={"dataloader_num_workers": 1}).get_train_dataloader()
    for batch, other in zip(alone, workers, strict=True):
        assert torch.equal(batch, other["input_ids"])


@pytest.mark.parametrize("tokens", [0, -5, 2.5, True, "many"])
def test_a_budget_is_a_whole_number(tokens: Any) -> None:
    with pytest.raises(DistillationError, match=r"tokens_per_batch is .*; it must be a whole number of 1 or more"):
        trainer_for(tokens_per_batch=tokens)


def test_rows_above_the_budget_are_refused_at_the_start_where_lengths_are_known() -> None:
    data = Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in ROWS])
    with pytest.raises(DataError, match=f"a row has {max(LENGTHS)} tokens, and tokens_per_batch is 30"):
        trainer_for(train_dataset=data, tokens_per_batch=30)
    with pytest.raises(DataError, match=f"a row has {max(LENGTHS)} tokens, and tokens_per_batch is 30"):
        trainer_for(tokens_per_batch=30).train()


def test_a_budget_does_not_go_with_other_ways_to_make_batches() -> None:
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(DataError, match="the lengths of all rows, and those of a stream are not known"):
        trainer_for(train_dataset=stream, arguments={"max_steps": 2})
    for given in ({"split_batches": True}, {"dispatch_batches": True}):
        with pytest.raises(DistillationError, match=f"and {next(iter(given))} changes it"):
            trainer_for(arguments={"accelerator_config": given})
    with pytest.raises(DistillationError, match="and auto_find_batch_size changes it"):
        trainer_for(arguments={"auto_find_batch_size": True})
    assert DataLoaderConfiguration().even_batches, "which a budget turns off for its own loader alone"
    trainer = trainer_for()
    trainer.get_train_dataloader()
    assert trainer.accelerator.even_batches


def test_windows_of_length_groups_span_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"train_sampling_strategy": "group_by_length", "gradient_accumulation_steps": 2}
    trainer = trainer_for(tokens_per_batch=None, arguments=arguments)
    assert trainer._get_train_sampler().window == 16
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", 3)
    sampler = trainer._get_train_sampler()
    assert (sampler.window, sampler.processes) == (48, 3)


def test_stages_group_by_length_and_train_with_fused_adamw(tmp_path: Path) -> None:
    given = {"use_cpu": True, "report_to": "none", "eval_strategy": "no"}
    arguments = training_arguments(given, tmp_path, 0, "stage 'distil'")
    assert arguments.train_sampling_strategy == "group_by_length"
    trainer = trainer_for(tokens_per_batch=None, args=arguments)
    optimizer = trainer.create_optimizer()
    assert type(optimizer) is torch.optim.AdamW
    assert all(group["fused"] for group in optimizer.param_groups)
    rows = np.asarray([LENGTHS[row] for row in trainer._get_train_sampler()])
    assert (np.diff(rows[:32]) <= 0).all()


@pytest.mark.slow
def test_two_processes_train_as_one_with_the_same_batches(tmp_path: Path) -> None:
    script = Path(__file__).parent / "distributed" / "train_with_a_budget.py"
    on_processes(script, tmp_path)

    class AsTwo(DistillationTrainer):
        def _token_batches(self, rows: Any, tokens: int) -> TokenBudgetSampler:
            return TokenBudgetSampler(LENGTHS, tokens, self.args.seed, processes=2)

    torch.manual_seed(0)
    one = AsTwo(
        model=tiny.model("single_label", seed=1),
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=2),
        objectives=0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels() + HiddenMSE(),
        train_dataset=ROWS,
        data_collator=tiny.Pad(),
        tokens_per_batch=160,
        args=tiny.arguments(max_steps=-1, num_train_epochs=2, gradient_accumulation_steps=2),
    )
    one.train()
    for rank in (0, 1):
        state = load_file(tmp_path / f"{rank}.safetensors")
        for name, parameter in one.distillation.named_parameters():
            torch.testing.assert_close(state[name], parameter.detach(), rtol=0, atol=1e-6, msg=name)
