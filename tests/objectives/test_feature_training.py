"""Objectives over hidden states in the trainer and in stages: equal steps however a batch is cut, parts that a stage
before learned, and what is measured before the first step.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_distill import (
    DMKD,
    NST,
    TED,
    VID,
    AttentionTransfer,
    Delta,
    DistillationTrainer,
    FitNetsHint,
    KnowledgePreregression,
    Labels,
    LayerCombination,
    TEDFilters,
)
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives import Terms
from hf_distill.runs import run
from tests import tiny, tiny_runs
from tests.test_capture import enable_checkpointing

ARGUMENTS = {
    "per_device_train_batch_size": 8, "max_steps": 2, "use_cpu": True, "disable_tqdm": True, "optim": "sgd",
    "learning_rate": 0.5, "lr_scheduler_type": "constant",
}  # fmt: skip


def terms() -> Terms:
    """Behind a fresh layer norm all tokens have one sum of squares, and the maps of p = 2 are alike."""
    torch.manual_seed(7)
    hints = FitNetsHint(form="code", regressor="conv1d") + 0.1 * VID(form="code", layer_map="final")
    maps = AttentionTransfer(p=1.0) + NST() + DMKD(form="code", layer_map="final")
    return hints + maps + TED() + LayerCombination() + KnowledgePreregression() + Labels()


def trained(extra: int = 0, checkpoints: bool = False, **settings: Any) -> DistillationTrainer:
    student = tiny.model("single_label")
    if checkpoints:
        enable_checkpointing(student, use_reentrant=False)
    trainer = DistillationTrainer(
        model=student,
        teacher=tiny.model("single_label", layers=4, hidden=48, seed=1),
        objectives=terms(),
        args=tiny.arguments(learning_rate=0.02, max_steps=2, **settings),
        train_dataset=tiny.rows("single_label"),
        data_collator=tiny.Pad(extra),
    )
    trainer.train()
    return trainer


def test_steps_are_equal_however_a_batch_is_cut() -> None:
    whole = trained()
    for settings in (
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        {"extra": 9},
        {"checkpoints": True},
    ):
        other = trained(**settings)
        assert tiny.distance(whole.model, other.model) < 1e-6, settings
        assert tiny.distance(whole.distillation.objectives, other.distillation.objectives) < 1e-6, settings


def test_filters_alone_leave_the_student_as_it_is() -> None:
    student = tiny.model("single_label", dropout=0.1)
    before = copy.deepcopy(student)
    trainer = DistillationTrainer(
        model=student,
        teacher=tiny.model("single_label", layers=4, seed=1),
        objectives=TEDFilters(),
        args=tiny.arguments(weight_decay=0.5),
        train_dataset=tiny.rows("single_label"),
        data_collator=tiny.Pad(),
    )
    learned = copy.deepcopy(trainer.distillation.objectives)
    trainer.train()
    assert tiny.distance(student, before) == 0.0
    assert all(parameter.requires_grad for parameter in student.parameters())
    for name, parameter in trainer.distillation.objectives.named_parameters():
        assert not torch.equal(parameter, learned.get_parameter(name)), name


def test_filters_beside_another_term_leave_it_the_student() -> None:
    trainers = []
    for objective in (Terms.of([Labels()]), Labels() + TEDFilters()):
        trainers.append(
            DistillationTrainer(
                model=tiny.model("single_label"),
                teacher=tiny.model("single_label", layers=4, seed=1),
                objectives=objective,
                args=tiny.arguments(max_steps=2),
                train_dataset=tiny.rows("single_label"),
                data_collator=tiny.Pad(),
            )
        )
        trainers[-1].train()
    assert tiny.distance(trainers[0].model, tiny.model("single_label")) > 1e-4
    assert tiny.distance(trainers[0].model, trainers[1].model) < 1e-6


# ---- stages ----


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    tiny_runs.save_teacher(folder / "teacher")
    tiny_runs.write_sst2(folder / "sst2")
    return folder


def recipe(home: Path, *stages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "schema": 1,
        "task": "sst2",
        "dataset_dir": str(home / "sst2"),
        "max_length": 16,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [
            {"name": f"s{i}", "objectives": objectives, "arguments": ARGUMENTS, **more}
            for i, objectives in enumerate(stages)
        ],
    }


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ({"ted_filters": {"width": 3}}, {"ted": {"width": 3}}, ("teacher_filters.0.weight", "teacher_filters.0.bias")),
        (
            {"knowledge_preregression_heads": {}},
            {"knowledge_preregression": {}},
            ("teacher_heads.0.weight", "teacher_heads.0.bias"),
        ),
    ],
    ids=["ted", "preregression"],
)
def test_a_stage_takes_what_the_one_before_learned(
    home: Path, tmp_path: Path, first: dict[str, Any], second: dict[str, Any], kept: tuple[str, ...]
) -> None:
    run(recipe(home, [first | {"name": "hint"}], [second | {"name": "hint"}]), tmp_path, evaluate=False)
    learned = [load_file(tmp_path / f"stages/0{i + 1}-s{i}/distillation.safetensors") for i in (0, 1)]
    for name in kept:
        assert torch.equal(learned[0][f"hint.{name}"], learned[1][f"hint.{name}"])
    assert not any("student_heads" in name and "ted" in str(first) for name in learned[1])
    weights = [load_file(tmp_path / f"stages/0{i + 1}-s{i}/model.safetensors") for i in (0, 1)]
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_parts_of_other_sizes_are_refused(home: Path, tmp_path: Path) -> None:
    stages = [[{"ted_filters": {"width": 3}, "name": "hint"}], [{"ted": {"width": 4}, "name": "hint"}]]
    with pytest.raises(IncompatiblePair, match=r"the term 'hint' learned .* give it another name"):
        run(recipe(home, *stages), tmp_path, evaluate=False)


def test_a_stage_that_trains_no_student_names_no_parts_of_it(home: Path, tmp_path: Path) -> None:
    made = recipe(home, [{"ted_filters": {}}], train=[{"layers": [1]}])
    with pytest.raises(DistillationError, match="train names parts of the student, and the terms ted_filters train"):
        run(made, tmp_path, evaluate=False)


# ---- what is measured first ----


@pytest.mark.parametrize("importance", ["ablation", "gradient"])
def test_features_are_weighed_before_the_first_step(importance: str, tmp_path: Path) -> None:
    start = tiny.model("single_label", hidden=8)

    def trainer(steps: int) -> DistillationTrainer:
        return DistillationTrainer(
            model=copy.deepcopy(start),
            teacher=copy.deepcopy(start),
            objectives=Labels() + 10.0 * Delta(importance=importance, importance_batches=1, form="code"),
            args=tiny.arguments(output_dir=str(tmp_path), save_strategy="steps", save_steps=1, max_steps=steps),
            train_dataset=tiny.rows("single_label"),
            data_collator=tiny.Pad(),
        )

    first = trainer(2)
    first.train()
    weights = first.distillation.objectives["delta"].feature_weights
    torch.testing.assert_close(weights.sum(1), torch.ones(2))
    assert weights.std(1).min() > 1e-4
    resumed = trainer(3)
    resumed.train(resume_from_checkpoint=True)
    assert torch.equal(resumed.distillation.objectives["delta"].feature_weights, weights)


@pytest.mark.parametrize("by_init", [False, True])
def test_features_are_weighed_on_the_student_that_trains_and_once(by_init: bool) -> None:
    """`model_init` makes it within train(); a student that has trained is not measured again."""
    start = tiny.model("single_label", hidden=8)
    given: dict[str, Any] = {"model_init": lambda: copy.deepcopy(start)} if by_init else {"model": start}
    trainer = DistillationTrainer(
        teacher=copy.deepcopy(start),
        objectives=Labels() + 10.0 * Delta(importance="gradient", importance_batches=1, form="code"),
        args=tiny.arguments(max_steps=2),
        train_dataset=tiny.rows("single_label"),
        data_collator=tiny.Pad(),
        **given,
    )
    found = []
    for _ in range(2):
        trainer.train()
        found.append(trainer.distillation.objectives["delta"].feature_weights.clone())
    assert found[0].std(1).min() > 1e-4
    assert torch.equal(*found)
