"""A run that is broken off and gone on with ends bit for bit as one that was not, whatever it is made of.

Stages, length groups, token budgets, grids, peers and teachers that follow the student have tests of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.utils.data import IterableDataset
from transformers import BertForMaskedLM, TrainerCallback

from hf_distill import CSKD, DistillationTrainer, HiddenMSE, Labels, SoftTargets, objectives
from hf_distill.data.masking import Masking, Padding
from hf_distill.data.packing import Layout
from hf_distill.data.pretraining import PackedRows
from hf_distill.data.streams import Source
from hf_distill.data.token_store import stored
from tests import tiny, tiny_runs

STEPS = 7
"""Of 4 in an epoch; gone on with is at the third, so that what happens between epochs happens on both sides."""


def trainer_of(folder: Path, **given: Any) -> DistillationTrainer:
    task = given.pop("task", "single_label")
    arguments: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": 3,
        "optim": "adamw_torch_fused",
        "learning_rate": 1e-3,
        "lr_scheduler_type": "linear",
        "warmup_steps": 2,
        "max_grad_norm": 1.0,
        "per_device_train_batch_size": 3,
        "gradient_accumulation_steps": 2,
        "train_sampling_strategy": "random",
        **given.pop("arguments", {}),
    }
    return DistillationTrainer(
        **{
            "model": tiny.model(task, layers=1, seed=1, dropout=0.2),
            "teacher": tiny.model(task, layers=2, hidden=48, seed=2),
            "objectives": SoftTargets() + Labels() + HiddenMSE(layer_map="final"),
            "args": tiny.arguments(**arguments),
            "train_dataset": tiny.rows(task, 22),  # the last window of an epoch is of two batches, one of them short
            "eval_dataset": tiny.rows(task, 6, seed=9),
            "data_collator": tiny.Pad(),
            **given,
        }
    )


def plain(folder: Path, home: Path) -> DistillationTrainer:
    """Dropout, accumulation with windows of unlike size, a schedule, clipping, an order drawn anew in each epoch."""
    return trainer_of(folder)


def workers(folder: Path, home: Path) -> DistillationTrainer:
    """They stay, those of the evaluation too: their seeds are drawn when they start, in different epochs here."""
    lasting = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    return trainer_of(folder, arguments={**lasting, "eval_strategy": "steps", "eval_steps": 3})


def cached(folder: Path, home: Path) -> DistillationTrainer:
    trainer = trainer_of(folder)
    trainer.cache_teacher(home / "cache")
    return trainer


def memory(folder: Path, home: Path) -> DistillationTrainer:
    torch.manual_seed(0)
    settings = {"negatives": 4, "dimension": 8}
    return trainer_of(folder, objectives=objectives.make("crd_memory", settings) + Labels())


def partners(folder: Path, home: Path) -> DistillationTrainer:
    """Rows bring partners that are drawn anew in each epoch."""
    return trainer_of(folder, objectives=CSKD() + Labels())


def adapters(folder: Path, home: Path) -> DistillationTrainer:
    torch.manual_seed(0)
    settings = {"target_modules": ["query", "value"], "lora_dropout": 0.3, "init_lora_weights": False}
    student = get_peft_model(tiny.model("single_label", layers=1, seed=1, dropout=0.2), LoraConfig(**settings))
    return trainer_of(folder, model=student)


class Sentences(Source):
    """Texts of known words."""

    name = "sentences"

    def identity(self) -> str:
        return self.name

    def documents(self) -> Iterator[str]:
        return (tiny_runs.sentence(row)[0] for row in range(30))


def masking(folder: Path, home: Path) -> DistillationTrainer:
    """Masks are drawn when a row is read, others in each epoch, here in a worker."""
    tokenizer = tiny_runs.tokenizer()
    store = stored(Sentences(), tokenizer, Layout.of(tokenizer, 12), home / "store")
    torch.manual_seed(0)
    student, teacher = (BertForMaskedLM(tiny_runs.config(("a", "b"), layers=layers)) for layers in (1, 2))
    return trainer_of(
        folder,
        model=student,
        teacher=teacher,
        train_dataset=PackedRows([store], Masking(tokenizer, seed=3)),
        eval_dataset=None,
        data_collator=Padding(0),
        arguments={"dataloader_num_workers": 1},
    )


CASES: tuple[Callable[[Path, Path], DistillationTrainer], ...] = (
    plain,
    workers,
    cached,
    memory,
    partners,
    adapters,
    masking,
)


def state(trainer: DistillationTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.distillation.state_dict().items()}


def values(trainer: DistillationTrainer) -> list[dict[str, float]]:
    """All logs of the training and of the evaluations, without times."""
    times = ("_runtime", "_per_second")
    rows = [row for row in trainer.state.log_history if "train_runtime" not in row]
    return [{key: value for key, value in row.items() if not key.endswith(times)} for row in rows]


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    make: Callable[[Path, Path], DistillationTrainer], tmp_path: Path
) -> None:
    whole = make(tmp_path / "whole", tmp_path)
    whole.train()
    again = make(tmp_path / "again", tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    expected, found = state(whole), state(again)
    assert found.keys() == expected.keys()
    assert not [name for name in found if not torch.equal(found[name], expected[name])]
    assert values(again) == values(whole)


class Stream(IterableDataset):  # type: ignore[type-arg]
    """Rows without a length, read anew in each pass."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


def an_epochs_end(folder: Path) -> DistillationTrainer:
    """The fourth step is the last of its epoch, behind which the evaluation draws from the generators."""
    return trainer_of(folder, arguments={"save_steps": 1, "eval_strategy": "epoch"})


def dispatched(folder: Path) -> DistillationTrainer:
    return trainer_of(folder, arguments={"save_steps": 1, "accelerator_config": {"dispatch_batches": True}})


def dispatched_by_length(folder: Path) -> DistillationTrainer:
    """The Trainer's own sampler of batches of like cost."""
    dealt = {"accelerator_config": {"dispatch_batches": True}, "train_sampling_strategy": "batch_rebalance"}
    return trainer_of(folder, arguments={"save_steps": 1, **dealt})


def stream(folder: Path) -> DistillationTrainer:
    """A pass has seven batches, and a step takes two: the last one of each pass is left out."""
    return trainer_of(folder, train_dataset=Stream(tiny.rows("single_label", 21)), arguments={"save_steps": 1})


@pytest.mark.parametrize(
    "make",
    [
        an_epochs_end,
        stream,
        pytest.param(dispatched, marks=pytest.mark.slow),
        pytest.param(dispatched_by_length, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_from_every_step(make: Callable[[Path], DistillationTrainer], tmp_path: Path) -> None:
    whole = make(tmp_path)
    whole.train()
    expected = state(whole)
    for step in range(1, STEPS):
        again = make(tmp_path / "again")
        again.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{step}"))
        found = state(again)
        assert not [name for name in found if not torch.equal(found[name], expected[name])], step
        assert values(again) == values(whole), step


class Stop(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("greater", [True, False])
def test_the_best_model_is_the_same_one(greater: bool, tmp_path: Path) -> None:
    """Whether it is of before the kill, or of after it."""
    best = {
        "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": greater,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_total_limit": 1,
    }

    def made(name: str) -> DistillationTrainer:
        return trainer_of(tmp_path / name, arguments=best)

    whole = made("whole")
    whole.train()
    broken = made("broken")
    broken.add_callback(Stop())
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    again = made("broken")
    again.train(resume_from_checkpoint=True)
    expected, found = state(whole), state(again)
    assert not [name for name in found if not torch.equal(found[name], expected[name])]
    assert values(again) == values(whole)
    names = [Path(trainer.state.best_model_checkpoint or "").name for trainer in (whole, again)]
    assert names == ["checkpoint-3" if greater else "checkpoint-7"] * 2
