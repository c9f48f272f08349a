"""Weights of terms that are no numbers: schedules over the steps, and weights that are learned."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_distill import (
    DistillationError,
    DistillationTrainer,
    HiddenMSE,
    Labels,
    Learned,
    Schedule,
    SoftTargets,
)
from hf_distill.activations import Activations
from hf_distill.hub.trained import record_of
from hf_distill.objectives import Term, Terms
from hf_distill.objectives.weights import largest
from hf_distill.tasks import Batch
from tests import tiny


def trainer_for(terms: Any, task: str = "single_label", **arguments: Any) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model(task, seed=1),
        teacher=tiny.model(task, layers=4, seed=2),
        objectives=terms,
        args=tiny.arguments(**arguments),
        train_dataset=tiny.rows(task),
        data_collator=tiny.Pad(),
    )


def trained(terms: Any, task: str = "single_label", **arguments: Any) -> DistillationTrainer:
    trainer = trainer_for(terms, task, **arguments)
    trainer.train()
    return trainer


def logs(trainer: DistillationTrainer) -> list[dict[str, float]]:
    return [row for row in trainer.state.log_history if "loss" in row]


# ---- schedules as functions ----


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.linear(1.0, 0.0), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (Schedule.linear(0.0, 2.0, start=0.25, stop=0.75), [0.0, 0.0, 1.0, 2.0, 2.0]),
        (Schedule.cosine(1.0, 0.0), [1.0, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125), 0.0]),
        (Schedule.early_stop(3.0, stop=0.5), [3.0, 3.0, 0.0, 0.0, 0.0]),
        (Schedule.early_stop(stop=0.0, final=0.2), [0.2] * 5),
        (Schedule.warmup(4.0, stop=0.5), [0.0, 2.0, 4.0, 4.0, 4.0]),
        (Schedule.ramp_up(2.0, stop=0.5), [2 * math.exp(-5), 2 * math.exp(-1.25), 2.0, 2.0, 2.0]),
    ],
    ids=str,
)
def test_a_schedule_by_hand(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule.at(step / 4) for step in range(5)] == pytest.approx(expected, abs=1e-12)
    assert max(expected) <= largest(schedule)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Schedule("square", 1.0, 0.0), "shape is 'square'; it may be linear, cosine"),
        (lambda: Schedule.linear(-1.0, 0.0), "linear schedule's initial is -1.0"),
        (lambda: Schedule.linear(1.0, math.nan), "final is nan"),
        (lambda: Schedule.linear(True, 0.0), "initial is True"),
        (lambda: Schedule.cosine(1.0, 0.0, start=0.6, stop=0.5), r"runs from 0\.6 to 0\.5"),
        (lambda: Schedule.warmup(stop=1.5), r"from 0 to 1\.5"),
        (lambda: Learned(0.0), "learning rate of a learned weight is 0"),
        (lambda: Learned(math.inf), "learning rate of a learned weight is inf"),
    ],
)
def test_what_is_no_schedule_is_refused(make: Any, words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        make()


def test_the_algebra_of_weights() -> None:
    fading = Schedule.linear(1.0, 0.5)
    terms = fading * SoftTargets() + 2.0 * (HiddenMSE() * fading) + Term(Labels(), "learned")
    assert [term.weight for term in terms] == [fading, Schedule.linear(2.0, 1.0), Learned()]
    assert repr(terms).startswith("(linear from 1 to 0.5 over 0 to 1 of the steps) * soft_targets + (linear from 2")
    assert (1.0 * Term(Labels(), Learned(0.1))).weight == Learned(0.1)
    for left, right in ((fading, fading), (Learned(), 2.0), (fading, "learned")):
        with pytest.raises(DistillationError, match="a schedule may be multiplied by a number"):
            _ = left * Term(SoftTargets(), right)


# ---- schedules in training ----


def stepped(weights: list[float]) -> nn.Module:
    """SGD by hand: at each step the batch's labels, and soft targets with that step's weight."""
    student, teacher = tiny.model("single_label", seed=1), tiny.model("single_label", layers=4, seed=2).eval()
    rows = tiny.rows("single_label")
    for step, weight in enumerate(weights):
        batch = tiny.Pad()(rows[8 * step : 8 * step + 8])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            target = teacher(**inputs).logits.softmax(-1)
        logits = student(**inputs).logits
        soft = (target * (target.log() - logits.log_softmax(-1))).sum(-1).mean()
        loss = nn.functional.cross_entropy(logits, batch["labels"]) + weight * soft
        gradients = torch.autograd.grad(loss, list(student.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(student.parameters(), gradients, strict=True):
                parameter -= 0.1 * gradient
    return student


@pytest.mark.parametrize(
    ("schedule", "weights"),
    [
        (Schedule.linear(2.0, 0.0), [2.0, 1.5, 1.0, 0.5]),
        (Schedule.early_stop(3.0, stop=0.5), [3.0, 3.0, 0.0, 0.0]),
        (Schedule.warmup(3.0, stop=0.5), [0.0, 1.5, 3.0, 3.0]),
    ],
    ids=str,
)
def test_each_step_has_its_weight(schedule: Schedule, weights: list[float]) -> None:
    trainer = trained(Labels() + schedule * SoftTargets(temperature=1.0))
    assert tiny.distance(trainer.model, stepped(weights)) < 2e-6
    for row, weight in zip(logs(trainer), weights, strict=True):
        assert row["weight/soft_targets"] == pytest.approx(weight)
        assert "weight/labels" not in row
        assert row["weighted/soft_targets"] == pytest.approx(weight * row.get("objective/soft_targets", 0.0), rel=1e-5)
        added = row["weighted/soft_targets"] + row["weighted/labels"]
        assert added == pytest.approx(row["loss"], rel=1e-5)


def test_logs_over_several_steps_have_each_step_at_its_weight() -> None:
    terms = Labels() + Schedule.linear(2.0, 0.0) * SoftTargets()
    single, double = (trained(terms, logging_steps=steps) for steps in (1, 2))
    for name in ("weighted/soft_targets", "weighted/labels", "objective/soft_targets", "loss"):
        means = [(a[name] + b[name]) / 2 for a, b in zip(logs(single)[::2], logs(single)[1::2], strict=True)]
        assert [row[name] for row in logs(double)] == pytest.approx(means, rel=1e-5), name


def count_calls(trainer: DistillationTrainer) -> list[int]:
    """The steps at which the teacher runs."""
    seen: list[int] = []
    inner = trainer.teacher.activations  # type: ignore[union-attr]

    def activations(batch: Any) -> Any:
        seen.append(trainer.state.global_step)
        return inner(batch)

    trainer.teacher.activations = activations  # type: ignore[method-assign, union-attr]
    return seen


@pytest.mark.parametrize("task", ["single_label", "masked_lm"])
def test_a_teacher_that_weighs_nothing_does_not_run(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    gone = Schedule.early_stop(stop=0.5)
    trainer = trainer_for(Labels() + gone * SoftTargets() + gone * HiddenMSE(), task, logging_steps=3, max_steps=6)
    seen = count_calls(trainer)
    trainer.train()
    assert (trainer.distillation._vocabulary is not None) == (task == "masked_lm")
    assert seen == [0, 1, 2]
    first, second = logs(trainer)
    assert first["objective/soft_targets"] > 0
    assert {"objective/soft_targets", "objective/hidden_mse"}.isdisjoint(second)
    assert second["weighted/soft_targets"] == second["weighted/hidden_mse"] == 0.0
    assert second["weighted/labels"] == second["objective/labels"] == pytest.approx(second["loss"], rel=1e-6)


def test_a_mean_over_steps_with_and_without_the_teacher_is_that_of_its_steps() -> None:
    terms = Labels() + Schedule.early_stop(stop=0.5) * SoftTargets()
    each, together = trained(terms), trained(terms, logging_steps=4)
    values = [row["objective/soft_targets"] for row in logs(each)[:2]]
    (row,) = logs(together)
    assert row["objective/soft_targets"] == pytest.approx(sum(values) / 2, rel=1e-5)
    assert row["weighted/soft_targets"] == pytest.approx(sum(values) / 4, rel=1e-5)


class Telling(SoftTargets):
    """Soft targets that note 3 for every example."""

    @property
    def logs(self) -> tuple[str, ...]:
        return ("told",)

    def values(self, student: Activations, teacher: Activations | None, batch: Batch) -> Tensor:
        values = super().values(student, teacher, batch)
        self.note("told", 3.0 * torch.ones_like(values).sum())
        return values


def test_a_term_that_is_left_out_has_nothing_more_to_tell() -> None:
    trainer = trained(Labels() + Term(Telling(), Schedule.early_stop(stop=0.5), name="telling"))
    told = [row["telling/told"] for row in logs(trainer)]
    assert told[:2] == pytest.approx([3.0, 3.0])
    assert told[2:] == [0.0, 0.0]


@pytest.mark.parametrize("terms", [Labels() + 0.0 * SoftTargets(), 0.0 * SoftTargets() + 0.0 * HiddenMSE() + Labels()])
def test_weights_of_zero_leave_the_student_to_its_labels(terms: Terms) -> None:
    trainer = trainer_for(terms)
    seen = count_calls(trainer)
    trainer.train()
    assert seen == []
    assert tiny.distance(trainer.model, trained(Terms.of(Labels())).model) < 1e-6


def test_a_teacher_that_is_all_there_is_runs_on() -> None:
    trainer = trainer_for(Schedule.early_stop(stop=0.5) * SoftTargets())
    seen = count_calls(trainer)
    trainer.train()
    assert seen == [0, 1, 2, 3]
    assert [row["loss"] for row in logs(trainer)][2:] == [0.0, 0.0]


def test_objectives_are_told_the_share_of_the_steps() -> None:
    seen = []

    class Telling(Labels):
        def forward(self, student: Any, teacher: Any, batch: Any) -> Any:
            seen.append(self.progress)
            return super().forward(student, teacher, batch)

    trained(Telling() + SoftTargets(), per_device_train_batch_size=4, gradient_accumulation_steps=2)
    assert seen == [0.0, 0.0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75]


# ---- invariance and resuming ----


def varied() -> Terms:
    """Learned weights, and a teacher that is left out in the last quarter."""
    gone = Schedule.early_stop(2.0, stop=0.75)
    return Terms.of(
        [Term(Labels(), Learned(0.1)), gone * SoftTargets(), Term(Labels(label_smoothing=0.3), Learned(0.2))]
    )


def with_teacher() -> Terms:
    fading = Schedule.cosine(1.0, 0.1)
    return Terms.of([Term(Labels(), Learned(0.1)), Term(SoftTargets(), Learned(0.1)), fading * HiddenMSE()])


@pytest.mark.parametrize(
    ("task", "terms"), [("single_label", varied), ("masked_lm", varied), ("masked_lm", with_teacher)]
)
def test_micro_batches_and_chunks_do_not_matter(task: str, terms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(terms(), task)
    cut = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    monkeypatch.setattr("hf_distill.objectives.pair.LARGE_VOCABULARY", 1)
    other = trained(terms(), task, **cut)
    assert (other.distillation._vocabulary is not None) == (task == "masked_lm")
    assert float(whole.distillation.terms()[0].log_variance.detach().abs()) > 1e-3  # type: ignore[union-attr]
    assert tiny.distance(whole.distillation, other.distillation) < 1e-6
    for ours, theirs in zip(logs(whole), logs(other), strict=True):
        keys = [key for key in ours if key.startswith(("objective/", "weight")) or key == "loss"]
        assert {key: theirs[key] for key in keys} == pytest.approx({key: ours[key] for key in keys}, abs=2e-5)


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    kept = {
        "save_strategy": "steps", "save_steps": 2, "max_steps": 6, "optim": "adamw_torch", "learning_rate": 1e-3,
        "lr_scheduler_type": "linear", "logging_steps": 1,
    }  # fmt: skip
    whole = trained(with_teacher(), output_dir=str(tmp_path), **kept)
    learned = load_file(tmp_path / "checkpoint-4" / "distillation.safetensors")
    assert learned["labels.log_variance"].abs() > 0
    again = trainer_for(with_teacher(), output_dir=str(tmp_path / "again"), **kept)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert tiny.distance(whole.distillation, again.distillation) == 0.0
    for ours, theirs in zip(logs(whole)[4:], logs(again)[-2:], strict=True):
        same = {key for key in ours if key not in ("epoch",)}
        assert {key: theirs[key] for key in same} == {key: ours[key] for key in same}


# ---- learned weights ----


def test_learned_weights_by_hand() -> None:
    """exp(-s) L / 2 + s / 2, by SGD on the student and on s, each at its rate."""
    trainer = trained(Terms.of([Term(Labels(), Learned(0.5)), Term(SoftTargets(temperature=1.0), Learned(0.25))]))
    student, teacher = tiny.model("single_label", seed=1), tiny.model("single_label", layers=4, seed=2).eval()
    s = [torch.zeros(1, requires_grad=True) for _ in range(2)]
    rows = tiny.rows("single_label")
    for step in range(4):
        batch = tiny.Pad()(rows[8 * step : 8 * step + 8])
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            target = teacher(**inputs).logits.softmax(-1)
        logits = student(**inputs).logits
        soft = (target * (target.log() - logits.log_softmax(-1))).sum(-1).mean()
        hard = nn.functional.cross_entropy(logits, batch["labels"])
        loss = sum(
            (torch.exp(-each) * value / 2 + each / 2).sum() for each, value in zip(s, (hard, soft), strict=True)
        )
        assert logs(trainer)[step]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        parameters = [*student.parameters(), *s]
        with torch.no_grad():
            rates = [0.1] * (len(parameters) - 2) + [0.5, 0.25]
            gradients = torch.autograd.grad(loss, parameters)
            for parameter, gradient, rate in zip(parameters, gradients, rates, strict=True):
                parameter -= rate * gradient
    assert tiny.distance(trainer.model, student) < 2e-6
    found = [objective.log_variance for objective in trainer.distillation.terms()]
    torch.testing.assert_close(torch.cat(found), torch.cat(s), rtol=0, atol=1e-6)  # type: ignore[arg-type]
    shown = {f"weight/{term.name}": (torch.exp(-each) / 2).item() for term, each in zip(trainer.terms, s, strict=True)}
    assert {key: value for key, value in logs(trainer)[-1].items() if key in shown} == pytest.approx(shown, rel=1e-5)


def test_a_learned_weight_is_held_between_its_bounds() -> None:
    terms = Terms.of([Term(Labels(), Learned(100.0)), Term(Labels(label_smoothing=0.5), Learned(1e-9))])
    trainer = trained(terms, max_steps=3)
    seen = [row["weight/labels"] for row in logs(trainer)]
    bounds = (math.exp(-5) / 2, math.exp(5) / 2)
    assert all(bounds[0] * 0.999 <= weight <= bounds[1] * 1.001 for weight in seen)
    assert min(seen) == pytest.approx(bounds[0], rel=1e-4) or max(seen) == pytest.approx(bounds[1], rel=1e-4)
    assert len({round(weight, 6) for weight in seen}) > 1, "it comes back from a bound"


def test_learned_weights_have_their_rate_and_no_decay() -> None:
    terms = Terms.of([Term(Labels(), Learned(0.5)), Term(Labels(label_smoothing=0.5), Learned(0.25))])
    trainer = trained(terms, weight_decay=0.1, max_steps=1, optim="adamw_torch", learning_rate=1e-3)
    groups = trainer.optimizer.param_groups
    assert [(len(group["params"]), group["lr"], group["weight_decay"]) for group in groups[2:]] == [
        (1, 0.5, 0.0),
        (1, 0.25, 0.0),
    ]
    assert {group["lr"] for group in groups[:2]} == {1e-3}
    assert logs(trainer)[0]["learning_rate"] == 1e-3


def test_one_learned_weight_is_refused() -> None:
    with pytest.raises(DistillationError, match="'labels' is learned, and no other is"):
        trainer_for(Term(Labels(), "learned") + 1.0 * SoftTargets())


def test_a_term_that_can_reach_zero_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    entropy = SoftTargets(kind="cross_entropy")
    trainer_for(Terms.of([Term(Labels(), "learned"), Term(entropy, "learned")]))
    assert "reach 0" not in caplog.text
    trainer_for(Terms.of([Term(Labels(), "learned"), Term(HiddenMSE(), "learned")]))
    assert "'hidden_mse' can reach 0" in caplog.text


def test_an_objective_that_is_used_again_forgets_its_learned_weight() -> None:
    labels = Labels()
    trainer_for(Terms.of([Term(labels, "learned"), Term(SoftTargets(), "learned")]))
    assert labels.log_variance is not None
    trainer_for(labels + SoftTargets())
    assert labels.log_variance is None
    assert list(labels.parameters()) == []


def test_the_record_says_what_a_weight_is() -> None:
    terms = Terms.of([Term(Labels(), "learned"), Term(SoftTargets(), "learned"), Schedule.warmup(2.0) * HiddenMSE()])
    facts = record_of(trained(terms, max_steps=1)).objectives
    assert [fact.weight for fact in facts] == ["learned", "learned", "linear from 0 to 2 over 0 to 0.1 of the steps"]


def test_the_evaluation_of_a_model_without_a_head_takes_the_weights_at_hand() -> None:
    from transformers import BertModel

    config = tiny.model("single_label").config
    torch.manual_seed(0)
    student, teacher = BertModel(config), BertModel(config)
    trainer = DistillationTrainer(
        model=student,
        teacher=teacher,
        objectives=Schedule.linear(4.0, 0.0) * HiddenMSE(layer_map="final") + 1.0 * HiddenMSE(layer_map=[[1, 1]]),
        args=tiny.arguments(learning_rate=1e-9),
        train_dataset=[{k: v for k, v in row.items() if k != "labels"} for row in tiny.rows("single_label")],
        eval_dataset=[{k: v for k, v in row.items() if k != "labels"} for row in tiny.rows("single_label")],
        data_collator=tiny.Pad(),
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    first = logs(trainer)[0]
    assert first["weight/hidden_mse"] == 4.0
    means = [sum(row[f"objective/{name}"] for row in logs(trainer)) / 4 for name in ("hidden_mse", "hidden_mse_2")]
    assert before == pytest.approx(4.0 * means[0] + means[1], rel=0.1)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(1.0 * means[0] + means[1], rel=0.1)
