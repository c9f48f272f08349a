"""The same gradient, however the batch is cut, padded or spread over processes."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill import DistillationTrainer, HiddenCosine, HiddenMSE, Labels, SoftTargets
from tests import tiny
from tests.processes import on_processes

TASKS = ("single_label", "masked_lm", "causal_lm")
TOLERANCE = 1e-6


def trained(task: str, extra_padding: int = 0, **settings: object) -> DistillationTrainer:
    """Four SGD steps on every objective at once, from the same start."""
    torch.manual_seed(0)
    trainer = DistillationTrainer(
        model=tiny.model(task, layers=2, hidden=32, seed=1),
        teacher=tiny.model(task, layers=4, hidden=48, seed=2),
        objectives=every_objective(),
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows(task),
        data_collator=tiny.Pad(extra_padding),
    )
    trainer.train()
    return trainer


@cache
def at_once(task: str) -> DistillationTrainer:
    """The run to which others are held."""
    return trained(task)


def every_objective():
    return (
        0.5 * SoftTargets(temperature=2.0)
        + 0.5 * Labels()
        + 0.3 * HiddenCosine(layer_map="final", projection="per_layer")
        + 0.2 * HiddenMSE(layer_map="uniform", projection="shared")
    )


@pytest.mark.parametrize("task", TASKS)
def test_micro_batches_and_padding_do_not_matter(task: str) -> None:
    whole = at_once(task)
    assert tiny.distance(whole.model, tiny.model(task, layers=2, hidden=32, seed=1)) > 1e-3, (
        "the run must move the weights"
    )
    for name, other in {
        "1 x 8": trained(task, per_device_train_batch_size=1, gradient_accumulation_steps=8),
        "2 x 4": trained(task, per_device_train_batch_size=2, gradient_accumulation_steps=4),
        "37 more columns": trained(task, extra_padding=37),
    }.items():
        assert tiny.distance(whole.distillation, other.distillation) < TOLERANCE, name
        losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (whole, other)]
        assert losses[0] == pytest.approx(losses[1], abs=1e-5), name


def test_an_uneven_last_window() -> None:
    """44 examples: 9 windows of 5 against windows of 3 x 15 in micro-batches of 5, the last one shorter."""
    settings = {"num_train_epochs": 1, "max_steps": -1}
    runs = []
    for batch, accumulation in ((15, 1), (5, 3)):
        trainer = DistillationTrainer(
            model=tiny.model("masked_lm", seed=1),
            teacher=tiny.model("masked_lm", layers=4, seed=2),
            objectives=SoftTargets() + Labels() + HiddenCosine(),
            args=tiny.arguments(
                per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **settings
            ),
            train_dataset=tiny.rows("masked_lm", 44),
            data_collator=tiny.Pad(),
        )
        trainer.train()
        assert trainer.state.global_step == 3
        runs.append(trainer.model)
    assert tiny.distance(*runs) < TOLERANCE


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    script = Path(__file__).parent / "distributed" / "train_every_objective.py"
    on_processes(script, tmp_path, *TASKS)
    for task in TASKS:
        single = at_once(task)
        for rank in (0, 1):
            state = load_file(tmp_path / f"{task}-{rank}.safetensors")
            other = copy.deepcopy(single.distillation.objectives), tiny.model(task, layers=2, hidden=32, seed=1)
            other[0].load_state_dict(
                {k.removeprefix("objectives."): v for k, v in state.items() if k.startswith("objectives.")}
            )
            other[1].load_state_dict(
                {k.removeprefix("student."): v for k, v in state.items() if k.startswith("student.")}, strict=False
            )
            assert tiny.distance(single.distillation.objectives, other[0]) < TOLERANCE, (task, rank)
            assert tiny.distance(single.model, other[1]) < TOLERANCE, (task, rank)
        logged = (tmp_path / f"{task}.losses").read_text().split()
        expected = [row["loss"] for row in single.state.log_history if "loss" in row]
        assert [float(value) for value in logged] == pytest.approx(expected, abs=1e-5), task
        evaluated = float((tmp_path / f"{task}.eval_loss").read_text())
        assert evaluated == pytest.approx(single.evaluate(tiny.rows(task, 21))["eval_loss"], abs=1e-5), task
