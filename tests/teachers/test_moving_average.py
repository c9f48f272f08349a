"""A teacher that is the average of the student: its weights after each step, what it teaches, how it is resumed."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, TrainerCallback

from hf_distill import BrokenCheckpoint, DistillationTrainer, Labels, SoftTargets
from hf_distill.checks import has_whole_student
from hf_distill.errors import DistillationError
from hf_distill.teachers import Frozen, MovingAverage
from tests import tiny


class Weights(TrainerCallback):
    """The student's weights after every step."""

    def __init__(self) -> None:
        self.seen: list[list[torch.Tensor]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.seen.append([parameter.detach().clone() for parameter in model.parameters()])


def trainer_of(
    teacher: MovingAverage, student: PreTrainedModel | None = None, dropout: float = 0.0, **settings: Any
) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("single_label", seed=4, dropout=dropout) if student is None else student,
        teacher=teacher,
        objectives=Labels() + SoftTargets(kind="probability_mse", temperature=1.0),
        args=tiny.arguments(**settings),
        train_dataset=tiny.rows("single_label", 48),
        data_collator=tiny.Pad(),
    )


@pytest.mark.parametrize("warmup", [True, False])
def test_the_average_follows_the_weights_of_every_step(warmup: bool) -> None:
    teacher, weights = MovingAverage(decay=0.75, warmup=warmup), Weights()
    trainer = trainer_of(teacher, gradient_accumulation_steps=2, per_device_train_batch_size=4)
    expected = [parameter.detach().clone().double() for parameter in trainer.model.parameters()]
    trainer.add_callback(weights)
    trainer.train()
    assert len(weights.seen) == 4
    for step, seen in enumerate(weights.seen):
        decay = min(0.75, 1 - 1 / (step + 1)) if warmup else 0.75
        expected = [decay * mean + (1 - decay) * now.double() for mean, now in zip(expected, seen, strict=True)]
    for found, wanted in zip(teacher.mean.model.parameters(), expected, strict=True):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
        assert not found.requires_grad


def test_it_teaches_by_the_weights_that_it_has() -> None:
    """The second step's consistency is that against the first step's weights: with warm-up they are the student's."""
    trainer = trainer_of(MovingAverage(decay=0.9), max_steps=3)
    trainer.train()
    values = [entry["objective/soft_targets"] for entry in trainer.state.log_history if "loss" in entry]
    assert values[0] < 1e-12
    assert values[1] < 1e-12
    assert values[2] > 1e-4


def test_it_answers_without_dropout() -> None:
    teacher = MovingAverage()
    trainer = trainer_of(teacher, dropout=0.4)
    batch = tiny.Pad()(tiny.rows("single_label", 8))
    first, second = (teacher.activations(batch).logits for _ in range(2))
    assert torch.equal(first, second)
    trainer.train()
    assert not teacher.mean.model.training


@pytest.mark.parametrize("adapter", [False, True])
def test_a_resumed_run_is_the_uninterrupted_one(adapter: bool, tmp_path: Path) -> None:
    def run(folder: Path, resume: bool = False, **settings: Any) -> tuple[DistillationTrainer, MovingAverage]:
        student = tiny.model("single_label", seed=4, dropout=0.2)
        if adapter:
            torch.manual_seed(0)
            config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], init_lora_weights=False)
            student = get_peft_model(student, config)
        teacher = MovingAverage(decay=0.6)
        given = {"output_dir": str(folder), "save_strategy": "steps", "save_steps": 2, "seed": 7, **settings}
        trainer = trainer_of(teacher, student, **given)
        trainer.train(resume_from_checkpoint=resume or None)
        return trainer, teacher

    whole, followed = run(tmp_path / "whole", max_steps=6)
    run(tmp_path / "parts", max_steps=6)
    for folder in (tmp_path / "parts").glob("checkpoint-*"):
        if folder.name != "checkpoint-2":
            shutil.rmtree(folder)
    parts, again = run(tmp_path / "parts", resume=True, max_steps=6)
    assert tiny.distance(whole.model, parts.model) == 0.0
    assert tiny.distance(followed.mean.model, again.mean.model) == 0.0
    assert tiny.distance(whole.model, followed.mean.model) > 1e-4


def test_a_checkpoint_of_something_else_is_told(tmp_path: Path) -> None:
    settings = {"output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 2, "max_steps": 2}
    trainer_of(MovingAverage(), **settings).train()
    (tmp_path / "checkpoint-2" / "manifest.json").unlink()  # which would tell it first
    path = tmp_path / "checkpoint-2" / "teacher.safetensors"
    held = load_file(path)
    assert held.keys() >= dict(trainer_of(MovingAverage()).model.named_parameters()).keys()
    name = "classifier.bias"
    save_file({**held, name: torch.zeros(5)}, path)
    with pytest.raises(BrokenCheckpoint, match=rf"'{name}' in the shape \(5,\), and the student here in \(3,\)"):
        trainer_of(MovingAverage(), **{**settings, "max_steps": 4}).train(resume_from_checkpoint=True)
    path.write_bytes(b"torn")
    with pytest.raises(BrokenCheckpoint, match="cannot be read"):
        trainer_of(MovingAverage(), **{**settings, "max_steps": 4}).train(resume_from_checkpoint=True)
    path.unlink()
    with pytest.raises(BrokenCheckpoint, match="is missing; the teacher changes while the student trains"):
        trainer_of(MovingAverage(), **{**settings, "max_steps": 4}).train(resume_from_checkpoint=True)


def test_a_student_in_half_precision_is_averaged_in_float32() -> None:
    teacher = MovingAverage(decay=0.999, warmup=False)
    student = tiny.model("single_label", seed=4).to(torch.bfloat16)
    teacher.meet(student)
    assert {parameter.dtype for parameter in teacher.mean.model.parameters()} == {torch.float32}
    with torch.no_grad():
        student.classifier.bias.fill_(1.0)
    teacher.after_step(5)
    torch.testing.assert_close(teacher.mean.model.classifier.bias, torch.full((3,), 1e-3), rtol=1e-4, atol=0)


def test_another_student_is_averaged_anew(caplog: pytest.LogCaptureFixture) -> None:
    teacher, first = MovingAverage(), tiny.model("single_label", seed=4)
    teacher.meet(first)
    kept = teacher.mean
    teacher.meet(first)
    assert teacher.mean is kept
    teacher.meet(copy.deepcopy(first))
    assert teacher.mean is not kept
    assert "its average begins anew" in caplog.text


def test_what_is_refused() -> None:
    for settings, message in (
        ({"decay": 1.0}, "decay is 1, and the teacher would never move"),
        ({"decay": -0.1}, "decay is -0.1"),
        ({"warmup": 1}, "warmup is 1"),
    ):
        with pytest.raises(DistillationError, match=message):
            MovingAverage(**settings)
    with pytest.raises(DistillationError, match="before it has met the student"):
        MovingAverage().activations({})
    with pytest.raises(DistillationError, match=r"MovingAverage, is made of the student's.*FSDP, DeepSpeed"):
        has_whole_student(MovingAverage(), sharded=True)
    has_whole_student(MovingAverage(), sharded=False)
    has_whole_student(Frozen(tiny.model("single_label")), sharded=True)
