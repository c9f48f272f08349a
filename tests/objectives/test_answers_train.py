"""Objectives over answers in the trainer: together, and what follows the steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_distill import DistillationTrainer, Schedule, objectives
from hf_distill.errors import DistillationError
from hf_distill.objectives import Annealing, Terms
from tests import tiny

OF_CLASSES = ("dkd", "dist", "standardized_kl", "weighted_soft_ce", "tf_kd_reg", "ban_cwtm", "dkpp", "annealing")
TOGETHER = {
    "single_label": OF_CLASSES,
    "token_classification": (*OF_CLASSES, "tokenwise_kd"),
    "causal_lm": (*OF_CLASSES, "tokenwise_kd"),
    "regression": ("bounded_regression", "annealing"),
}


def trainer_of(task: str, terms: Any, rows: int = 16, **settings: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model(task, seed=1),
        teacher=tiny.model(task, layers=3, hidden=48, seed=2),
        objectives=terms,
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows(task, rows),
        data_collator=tiny.Pad(0),
    )


@pytest.mark.parametrize("task", TOGETHER)
def test_trains_with_all_of_them(task: str) -> None:
    terms = Terms.of(
        [
            0.1 * objectives.get(name)(**({"max_temperature": 2} if name == "annealing" else {}))
            for name in TOGETHER[task]
        ]
    )
    trainer = trainer_of(task, terms, max_steps=2, learning_rate=0.01)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logged) == 2
    for row in logged:
        values = [row[f"objective/{name}"] for name in TOGETHER[task]]
        assert all(0 < value < 1e4 for value in values)
        assert row["loss"] == pytest.approx(0.1 * sum(values), rel=1e-3)
    assert tiny.distance(trainer.model, tiny.model(task, seed=1)) > 1e-4
    assert trainer.evaluate(tiny.rows(task, 5))["eval_loss"] > 0


def test_the_teacher_sharpens_from_block_to_block() -> None:
    """Every step sees all rows, and the student stays as it is."""
    trainer = trainer_of("single_label", Annealing(max_temperature=2), 8, max_steps=4, learning_rate=0.0)
    batch = tiny.Pad(0)(tiny.rows("single_label", 8))
    with torch.no_grad():
        ours, theirs = (
            tiny.model("single_label", **size).eval()(batch["input_ids"], batch["attention_mask"]).logits
            for size in ({"seed": 1}, {"layers": 3, "hidden": 48, "seed": 2})
        )
    trainer.train()
    found = [row["objective/annealing"] for row in trainer.state.log_history if "objective/annealing" in row]
    expected = [float((ours - share * theirs).square().mean()) for share in (0.5, 0.5, 1.0, 1.0)]
    assert found == pytest.approx(expected, rel=1e-4)
    assert expected[0] != pytest.approx(expected[2], rel=1e-2)


def test_a_training_without_a_step_for_every_block_is_refused() -> None:
    trainer = trainer_of("single_label", Annealing(max_temperature=5), max_steps=4)
    with pytest.raises(
        DistillationError, match=r"'annealing' goes through 5 parts of the training, which has 4 steps"
    ):
        trainer.train()


def test_warms_up_by_a_schedule() -> None:
    """The first epochs of decoupled distillation, as its authors' code has them."""
    warming = Schedule.warmup(1.0, stop=0.5) * objectives.get("dkd")(beta=2.0)
    trainer = trainer_of("single_label", warming + objectives.get("labels")(), 8, max_steps=4)
    trainer.train()
    weights = [row["weight/dkd"] for row in trainer.state.log_history if "weight/dkd" in row]
    assert weights == pytest.approx([0.0, 0.5, 1.0, 1.0])
