"""What the record of a trainer tells of its evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForSequenceClassification

from hf_distill import DistillationTrainer, Labels
from hf_distill.hub.record import Origin
from hf_distill.hub.trained import record_of
from tests import tiny


def trained(folder: Path, sets: Any, **arguments: Any) -> DistillationTrainer:
    """Four steps, evaluated and saved at the second and the last."""
    settings = {"max_steps": 4, "learning_rate": 1e-2, "eval_strategy": "steps", "eval_steps": 2}
    settings |= {"save_strategy": "steps", "save_steps": 2, "output_dir": str(folder)}
    trainer = DistillationTrainer(
        model=tiny.model("single_label", seed=1),
        objectives=1.0 * Labels(),
        args=tiny.arguments(**{**settings, **arguments}),
        train_dataset=tiny.rows("single_label"),
        eval_dataset=sets,
        data_collator=tiny.Pad(),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("is_better", [True, False])
def test_metrics_are_those_of_the_best_checkpoint_where_that_is_the_student(is_better: bool, tmp_path: Path) -> None:
    """The loss falls, so the first checkpoint is the best where greater is better, and else the last."""
    best = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": is_better}
    trainer = trained(tmp_path, tiny.rows("single_label", 8, seed=5), **best)
    assert trainer.state.best_model_checkpoint.endswith("-2" if is_better else "-4")
    found = record_of(trainer)
    assert found.metrics["eval_loss"] == pytest.approx(trainer.evaluate()["eval_loss"])
    assert found.data.sizes["validation"] == 8
    logged = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    assert abs(logged[0] - logged[1]) > 1e-3


def test_all_sets_are_told_with_their_rows(tmp_path: Path) -> None:
    sets = {name: tiny.rows("single_label", number, seed=number) for name, number in (("near", 8), ("far", 5))}
    trainer = trained(tmp_path, sets)
    found = record_of(trainer)
    assert found.data.sizes == {"train": len(trainer.train_dataset), "validation_near": 8, "validation_far": 5}
    again = trainer.evaluate()
    for name in ("eval_near_loss", "eval_far_loss"):
        assert found.metrics[name] == pytest.approx(again[name])


@pytest.mark.parametrize("loads", [True, False])
def test_the_licence_of_the_model_that_the_student_was_loaded_from_is_told(loads: bool, tmp_path: Path) -> None:
    """A model that only has its configuration from there does not start from it."""
    student = tiny.model("single_label", layers=1, hidden=16)
    student.save_pretrained(tmp_path / "start")
    (tmp_path / "start" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    auto_class = AutoModelForSequenceClassification
    config = AutoConfig.from_pretrained(tmp_path / "start")
    loaded = auto_class.from_pretrained(tmp_path / "start") if loads else auto_class.from_config(config)
    trainer = DistillationTrainer(
        model=loaded,
        objectives=1.0 * Labels(),
        args=tiny.arguments(output_dir=str(tmp_path / "out"), max_steps=1),
        train_dataset=tiny.rows("single_label"),
        data_collator=tiny.Pad(),
    )
    trainer.train()
    expected = {"student.model": Origin(license="cc-by-nc-4.0")} if loads else {}
    assert record_of(trainer).origins == expected
