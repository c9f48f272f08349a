"""Relations inside texts in a trainer: columns that they read, and heads that learn while the student rests."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset

from hf_distill import MHGD, DistillationTrainer, Labels, MHGDEstimator, PairwiseKD, RegionAffinity
from hf_distill.errors import DataError
from hf_distill.objectives import Objective, Terms
from hf_distill.runs.stages import hand_on
from tests import tiny


def trainer_of(objectives: Terms | Objective, rows: Any = None, task: str = "single_label", **settings: Any) -> Any:
    return DistillationTrainer(
        model=tiny.model(task, seed=1),
        teacher=tiny.model(task, layers=4, seed=2),
        objectives=objectives,
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows(task) if rows is None else rows,
        data_collator=tiny.Pad(),
    )


def marked(task: str, column: str) -> Dataset:
    """Rows whose first and last tokens are marked."""
    rows = tiny.rows(task)
    for row in rows:
        inner = len(row["input_ids"]) - 2
        row[column] = [1, *[0] * inner, 1]
    return Dataset.from_list(rows)


def test_heads_learn_while_the_student_rests() -> None:
    first = trainer_of(MHGDEstimator(heads=2), learning_rate=0.5)
    before = [each.detach().clone() for each in first.distillation.objectives.parameters()]
    first.train()
    assert tiny.distance(first.model, tiny.model("single_label", seed=1)) == 0.0
    assert all(parameter.requires_grad for parameter in first.model.parameters())
    learned = first.distillation.objectives.state_dict()
    after = first.distillation.objectives.parameters()
    assert all(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    losses = [row["objective/mhgd_estimator"] for row in first.state.log_history if "loss" in row]
    assert 0 < losses[-1] < losses[0]

    then = trainer_of(Terms.of([Labels(), MHGD(heads=2)]))
    named = {name.replace("mhgd_estimator", "mhgd"): value for name, value in learned.items()}
    hand_on(named, then.distillation.objectives, "stage 'distil'")
    then.train()
    assert tiny.distance(then.model, tiny.model("single_label", seed=1)) > 1e-3
    kept = then.distillation.objectives["mhgd"].state_dict()
    assert all(torch.equal(kept[name.removeprefix("mhgd.")], named[name]) for name in named if "attention" in name)


def test_random_heads_are_told(caplog: pytest.LogCaptureFixture) -> None:
    trainer_of(MHGD(heads=2), max_steps=1).train()
    assert "attention heads are random" in caplog.text


def test_special_tokens_reach_the_objective() -> None:
    trainer = trainer_of(PairwiseKD(special_tokens="exclude"), marked("single_label", "special_tokens_mask"))
    trainer.train()
    others = trainer_of(PairwiseKD(), marked("single_label", "special_tokens_mask"))
    others.train()
    values = [each.state.log_history[0]["objective/pairwise_kd"] for each in (trainer, others)]
    assert values[0] != pytest.approx(values[1], rel=1e-3)


def test_a_column_that_no_model_takes_is_kept() -> None:
    rows = marked("causal_lm", "token_type_ids")
    objective = RegionAffinity(regions="token_type_ids")
    trainer = trainer_of(objective, rows, "causal_lm")
    trainer.train()
    assert all(row["objective/region_affinity"] > 0 for row in trainer.state.log_history if "loss" in row)
    with pytest.raises(DataError, match=r"region_affinity: the column token_type_ids .* is missing"):
        trainer_of(RegionAffinity(regions="token_type_ids"), task="causal_lm").train()
