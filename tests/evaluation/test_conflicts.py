"""Angles between the gradients of terms."""

from __future__ import annotations

import pytest
import torch

from hf_distill import DistillationError, DistillationTrainer, Labels, Schedule, SoftTargets
from hf_distill.evaluation.conflicts import clip_to_task, gradient_conflicts, gradient_cosines, pcgrad
from hf_distill.objectives import Term
from tests import tiny

PARAMETER = "bert.encoder.layer.1.output.dense.weight"


def trainer_for(terms: object) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("single_label", seed=1, dropout=0.3),
        teacher=tiny.model("single_label", layers=4, seed=2),
        objectives=terms,
        args=tiny.arguments(),
        train_dataset=tiny.rows("single_label"),
        data_collator=tiny.Pad(),
    )


def test_a_gradient_of_zero_conflicts_with_nothing() -> None:
    gradients = torch.tensor([[0.0, 0.0], [3.0, 4.0], [-3.0, -4.0]], dtype=torch.float64)
    expected = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, -1.0], [0.0, -1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient_cosines(gradients), expected)
    assert torch.equal(pcgrad(gradients), torch.zeros_like(gradients))


def test_the_order_is_that_of_the_others() -> None:
    gradients = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, -1.0, 0.0]])
    ascending, descending = pcgrad(gradients), pcgrad(gradients, order=[2, 1, 0])
    assert torch.equal(ascending[0], torch.tensor([0.5, 0.0, 0.0]))  # loses to the second, then its rest to the third
    assert torch.equal(descending[0], torch.tensor([0.5, 0.5, 0.0]))


def test_the_conflicts_of_a_batch() -> None:
    """Against gradients by hand, without dropout and weights; and nothing of the trainer is moved."""
    terms = Schedule.warmup(3.0) * SoftTargets(temperature=1.0) + 2.0 * Labels()
    trainer = trainer_for(terms)
    trainer.distillation.train()
    batch = tiny.Pad()(tiny.rows("single_label")[:8])
    found = gradient_conflicts(trainer, batch, PARAMETER)
    student, teacher = tiny.model("single_label", seed=1).eval(), tiny.model("single_label", layers=4, seed=2).eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    logits, target = student(**inputs).logits, teacher(**inputs).logits.softmax(-1).detach()
    soft = -(target * logits.log_softmax(-1)).sum()
    hard = torch.nn.functional.cross_entropy(logits, batch["labels"])
    rows = [torch.autograd.grad(each, student.get_parameter(PARAMETER), retain_graph=True)[0] for each in (soft, hard)]
    cosine = torch.nn.functional.cosine_similarity(rows[0].flatten(), rows[1].flatten(), dim=0)
    assert found.terms == ("soft_targets", "labels")
    torch.testing.assert_close(found.cosines, torch.tensor([[1.0, cosine], [cosine, 1.0]]), rtol=0, atol=1e-5)
    assert trainer.distillation.training
    assert trainer.distillation.weights.numbers == {"soft_targets": 0.0, "labels": 2.0}
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_learned_weights_are_put_aside() -> None:
    terms = [Term(SoftTargets(kind="cross_entropy"), "learned"), Term(Labels(), "learned")]
    batch = tiny.Pad()(tiny.rows("single_label")[:8])
    plain = gradient_conflicts(trainer_for(SoftTargets(kind="cross_entropy") + Labels()), batch, PARAMETER)
    torch.testing.assert_close(gradient_conflicts(trainer_for(terms), batch, PARAMETER).cosines, plain.cosines)


@pytest.mark.parametrize(("name", "words"), [("bert.none", "does not exist"), (PARAMETER, "does not train")])
def test_a_parameter_that_is_not_there_is_refused(name: str, words: str) -> None:
    trainer = trainer_for(SoftTargets() + Labels())
    trainer.model.get_parameter(PARAMETER).requires_grad_(False)
    with pytest.raises(DistillationError, match=words):
        gradient_conflicts(trainer, tiny.Pad()(tiny.rows("single_label")[:2]), name)


def test_several_processes_and_scaled_gradients_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = trainer_for(SoftTargets() + Labels())
    batch = tiny.Pad()(tiny.rows("single_label")[:2])
    monkeypatch.setattr(trainer.accelerator, "scaler", object())
    with pytest.raises(DistillationError, match="a loss scaler"):
        gradient_conflicts(trainer, batch, PARAMETER)
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", property(lambda self: 2))
    with pytest.raises(DistillationError, match="there is 2 processes"):
        gradient_conflicts(trainer, batch, PARAMETER)


def test_a_transfer_term_gives_way_to_the_task() -> None:
    task, transfer = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 50.0])
    torch.testing.assert_close(clip_to_task(task, transfer, 3, 3), torch.tensor([3.0, 4.0 + 2.5]))
    torch.testing.assert_close(clip_to_task(task, transfer, 1000, 3), torch.tensor([3.0, 9.0]))
    torch.testing.assert_close(clip_to_task(task, transfer / 50, 3, 3), torch.tensor([3.0, 5.0]))
    assert torch.equal(clip_to_task(task, torch.zeros(2), 3, 3), task)
    assert torch.equal(clip_to_task(torch.zeros(2), transfer, 3, 3), torch.zeros(2))
