"""Runs of arguments at random, gone on with from each of their checkpoints: the student is bit for bit that of the run
that was left alone, and so are the evaluations."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from hf_distill import DistillationTrainer, Labels, Schedule, SoftTargets, objectives
from tests import tiny
from tests.test_pitfalls import CHECKPOINTING

TERMS = {
    "soft": lambda: SoftTargets() + Labels(),
    "schedule": lambda: Labels() + Schedule.linear(1.0, 0.0) * SoftTargets(),
    "memory": lambda: objectives.make("crd_memory", {"negatives": 2, "dimension": 8}) + Labels(),
}
DISPATCHED = {"accelerator_config": {"dispatch_batches": True}}


class Stream(IterableDataset):  # type: ignore[type-arg]
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of a run, the number of its rows, its terms, and how its rows come."""
    rows = draw(st.sampled_from(["rows", "rows", "rows", "tokens", "stream"]))
    steps = {"max_steps": draw(st.sampled_from([5, 7]))}
    epochs = {"max_steps": -1, "num_train_epochs": draw(st.sampled_from([2, 2.5]))}
    evaluated = draw(st.sampled_from(["no", "steps", "epoch"]))
    workers = draw(st.sampled_from([{}, {}, {"dataloader_num_workers": 1}]))
    return {
        "rows": rows,
        "number": draw(st.sampled_from([7, 10, 13])),
        "terms": draw(st.sampled_from(["soft", "schedule"] if rows == "stream" else sorted(TERMS))),
        "arguments": {
            **(steps if rows == "stream" else draw(st.sampled_from([steps, epochs]))),
            **({"eval_strategy": "steps", "eval_steps": 2} if evaluated == "steps" else {"eval_strategy": evaluated}),
            **({**workers, "dataloader_persistent_workers": draw(st.booleans())} if workers else {}),
            **(draw(st.sampled_from([{}, {}, DISPATCHED])) if rows == "rows" else {}),
            "per_device_train_batch_size": draw(st.integers(1, 3)),
            "gradient_accumulation_steps": draw(st.integers(1, 3)),
            "train_sampling_strategy": draw(st.sampled_from(["random", "group_by_length", "batch_rebalance"])),
            "lr_scheduler_type": draw(st.sampled_from(["linear", "cosine_with_restarts"])),
            "optim": draw(st.sampled_from(["adamw_torch_fused", "adafactor"])),
            "max_grad_norm": draw(st.sampled_from([0.0, 0.1])),
            "dataloader_drop_last": draw(st.booleans()),
            "bf16": draw(st.booleans()),
            CHECKPOINTING: draw(st.booleans()),
        },
    }


def trainer_of(folder: Path, drawn: dict[str, Any]) -> DistillationTrainer:
    torch.manual_seed(0)
    rows = tiny.rows("single_label", drawn["number"])
    arguments = {"save_strategy": "steps", "save_steps": 1, "learning_rate": 1e-2, **drawn["arguments"]}
    return DistillationTrainer(
        model=tiny.model("single_label", layers=1, seed=1, dropout=0.2),
        teacher=tiny.model("single_label", layers=2, hidden=48, seed=2),
        objectives=TERMS[drawn["terms"]](),
        args=tiny.arguments(output_dir=str(folder), **arguments),
        train_dataset=Stream(rows) if drawn["rows"] == "stream" else rows,
        eval_dataset=tiny.rows("single_label", 8, seed=9),
        data_collator=tiny.Pad(),
        tokens_per_batch=80 if drawn["rows"] == "tokens" else None,
    )


def evaluations(trainer: DistillationTrainer) -> list[tuple[float, float]]:
    return [(row["step"], row["eval_loss"]) for row in trainer.state.log_history if "eval_loss" in row]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(runs())
def test_a_run_goes_on_from_any_step_as_if_nothing_had_been(drawn: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        whole = trainer_of(home / "whole", drawn)
        whole.train()
        for step in range(1, whole.state.global_step + 1):
            again = trainer_of(home / "again", drawn)
            again.train(resume_from_checkpoint=str(home / "whole" / f"checkpoint-{step}"))
            assert tiny.distance(again.distillation, whole.distillation) == 0.0, step
            assert evaluations(again) == evaluations(whole), step
            assert again.state.global_step == whole.state.global_step
