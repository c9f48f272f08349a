"""The game against a discriminator: both sides' gradients, the penalty, the rates, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_distill import DistillationError, DistillationTrainer, HolisticKD, IncompatiblePair, Labels, Schedule
from hf_distill.activations import Activations
from hf_distill.objectives import Pair
from hf_distill.objectives.base import Loss
from hf_distill.objectives.discriminator import Discriminator, scores, spectral_bound
from hf_distill.tasks import TASKS
from tests import tiny
from tests.shapes import shape

MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])
BATCH = {"input_ids": MASK, "attention_mask": MASK, "labels": torch.where(MASK.bool(), 0, -100)}


def bound(task: str = "token_classification", num_logits: int = 4, **settings: Any) -> HolisticKD:
    torch.manual_seed(3)
    objective = HolisticKD(width=5, **settings)
    objective.bind(Pair.from_shapes(shape(num_logits=num_logits), shape(num_logits=num_logits), TASKS[task]))
    return objective.double()


def played(objective: HolisticKD, student: Tensor, teacher: Tensor) -> Loss:
    torch.manual_seed(0)
    sides = [Activations(mask=MASK, logits=side) for side in (student, teacher)]
    loss = objective(sides[0], sides[1], BATCH)
    assert isinstance(loss, Loss)
    return loss


def drawn(seed: int) -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kind", ["wgan-gp", "hinge", "vanilla", "vanilla_minimax"])
def test_each_side_trains_its_own(kind: str) -> None:
    """The student's part moves the student alone, the other one the discriminator alone, both as their value says."""
    objective = bound(kind=kind)
    student, teacher = drawn(1).requires_grad_(), drawn(2).requires_grad_()
    learned = dict(objective.named_parameters())
    main, auxiliary = played(objective, student, teacher)
    moved = torch.autograd.grad(main, [student, teacher, *learned.values()], retain_graph=True, allow_unused=True)
    assert moved[0].any()
    assert all(gradient is None for gradient in moved[1:])
    opposed = torch.autograd.grad(auxiliary, [student, teacher, *learned.values()], allow_unused=True)
    assert opposed[0] is None
    assert opposed[1] is None
    assert all(gradient.any() for gradient in opposed[2:])
    assert torch.autograd.gradcheck(
        lambda logits: played(objective, logits, teacher.detach()).main, student, fast_mode=True
    )

    def paid(*parameters: Tensor) -> Tensor:
        named = dict(zip(learned, parameters, strict=True))
        torch.manual_seed(0)
        sides = [Activations(mask=MASK, logits=side.detach()) for side in (student, teacher)]
        loss = torch.func.functional_call(objective, named, (sides[0], sides[1], BATCH))
        return loss.auxiliary  # type: ignore[no-any-return]

    given = [parameter.detach().clone().requires_grad_() for parameter in learned.values()]
    assert torch.autograd.gradcheck(paid, given, fast_mode=True)


def test_an_example_does_not_see_the_others() -> None:
    """Nothing is normalised over the batch, which a penalty of each example's gradient forbids."""
    torch.manual_seed(0)
    discriminator = Discriminator(4, 5).double()
    kinds = {type(module) for module in discriminator.modules()}
    assert kinds == {Discriminator, nn.ModuleList, nn.Linear}
    layers, states = discriminator.layers(torch.float64), drawn(1)
    whole = scores(layers, states, MASK)
    alone = [scores(layers, states[i : i + 1], MASK[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(whole, torch.cat(alone))
    torch.testing.assert_close(whole[1:], scores(layers, states[1:, :2], MASK[1:, :2]))


@pytest.mark.parametrize("size", [(1, 7), (6, 6), (64, 192), (30, 4)])
def test_the_bound_of_a_weight(size: tuple[int, int]) -> None:
    weight = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    largest = torch.linalg.matrix_norm(weight, 2)
    assert 1.0 - 1e-9 <= float(spectral_bound(weight) / largest) <= min(size) ** (1 / 128) + 1e-9
    torch.testing.assert_close(
        spectral_bound(1e3 * weight.float()).double(), 1e3 * spectral_bound(weight), rtol=1e-5, atol=0
    )
    assert torch.isfinite(spectral_bound(torch.zeros(size)))


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
    torch.manual_seed(0)
    trainer = trainer_for(terms, task, **arguments)
    trainer.train()
    return trainer


def logs(trainer: DistillationTrainer) -> list[dict[str, float]]:
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("task", ["single_label", "token_classification", "question_answering"])
def test_both_parts_are_logged_and_make_the_loss(task: str) -> None:
    trainer = trained(Labels() + 0.1 * HolisticKD(width=8), task)
    for row in logs(trainer):
        parts = [row[key] for key in ("weighted/labels", "weighted/holistic_kd", "auxiliary/holistic_kd")]
        assert sum(parts) == pytest.approx(row["loss"], rel=1e-5)
        assert row["weighted/holistic_kd"] == pytest.approx(0.1 * row["objective/holistic_kd"], rel=1e-5)
    names = [name for name, _ in trainer.model.named_parameters()]
    assert not any("discriminator" in name for name in names)


def test_micro_batches_do_not_matter() -> None:
    terms = lambda: Labels() + 0.5 * HolisticKD(kind="hinge", width=8)  # noqa: E731
    for task in ("single_label", "token_classification"):
        whole = trained(terms(), task)
        parts = trained(terms(), task, per_device_train_batch_size=2, gradient_accumulation_steps=4)
        assert tiny.distance(whole.distillation, parts.distillation) < 1e-6
        assert [row["auxiliary/holistic_kd"] for row in logs(parts)] == pytest.approx(
            [row["auxiliary/holistic_kd"] for row in logs(whole)], abs=1e-5
        )


def test_the_discriminator_has_its_own_rate() -> None:
    trainer = trained(Labels() + HolisticKD(width=8, learning_rate=0.02), max_steps=1, learning_rate=0.001)
    groups = trainer.optimizer.param_groups
    learned = {id(parameter) for parameter in trainer.distillation.objectives.parameters()}
    at = [(group["lr"], id(parameter) in learned) for group in groups for parameter in group["params"]]
    assert set(at) == {(0.001, False), (0.02, True)}
    assert sum(mine for _, mine in at) == len(learned)


def test_a_resumed_game_is_the_uninterrupted_one(tmp_path: Path) -> None:
    kept = {
        "save_strategy": "steps", "save_steps": 2, "max_steps": 6, "optim": "adamw_torch", "learning_rate": 1e-3,
        "lr_scheduler_type": "linear", "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2,
    }  # fmt: skip
    terms = lambda: Labels() + Schedule.linear(0.0, 0.5) * HolisticKD(width=8, warmup=0.3)  # noqa: E731
    whole = trained(terms(), output_dir=str(tmp_path), **kept)
    assert all(
        name.startswith("holistic_kd.discriminator.")
        for name in load_file(tmp_path / "checkpoint-2" / "distillation.safetensors")
    )
    again = trainer_for(terms(), output_dir=str(tmp_path / "again"), **kept)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert tiny.distance(whole.distillation, again.distillation) == 0.0
    assert logs(again)[-1]["loss"] == logs(whole)[-1]["loss"]


def test_the_discriminator_learns_before_the_student_hears_of_it() -> None:
    trainer = trained(Labels() + HolisticKD(width=8, warmup=0.5))
    assert [row["objective/holistic_kd"] == 0.0 for row in logs(trainer)] == [True, True, False, False]
    assert all(row["auxiliary/holistic_kd"] != 0.0 for row in logs(trainer))


def test_a_weight_of_zero_still_trains_the_discriminator() -> None:
    trainer = trainer_for(Labels() + 0.0 * HolisticKD(width=8, learning_rate=0.1))
    before = [parameter.detach().clone() for parameter in trainer.distillation.objectives.parameters()]
    trainer.train()
    after = list(trainer.distillation.objectives.parameters())
    assert all((a - b).abs().max() > 0 for a, b in zip(before, after, strict=True))
    assert tiny.distance(trainer.model, trained(Labels() + 0.0 * HolisticKD(width=8)).model) < 1e-6


def test_a_model_without_a_head_is_scored_and_evaluated_by_its_states() -> None:
    from transformers import BertModel

    config = tiny.model("single_label").config
    torch.manual_seed(0)
    rows = [{k: v for k, v in row.items() if k != "labels"} for row in tiny.rows("single_label")]
    trainer = DistillationTrainer(
        model=BertModel(config),
        teacher=BertModel(config),
        objectives=HolisticKD(reads="hidden", width=8),
        args=tiny.arguments(),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=tiny.Pad(),
    )
    trainer.train()
    assert trainer.evaluate()["eval_loss"] != 0.0


def test_an_objective_that_returns_what_it_does_not_say_is_refused() -> None:
    class Mistaken(Labels):
        two_sided = True

    with pytest.raises(DistillationError, match="says two_sided = True, and its forward returns a Tensor"):
        trained(Mistaken() * 1.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"kind": "wgan"}, "kind is 'wgan'.*did you mean 'wgan-gp'"),
        ({"reads": "states"}, "reads is 'states'"),
        ({"width": 2.5}, "width is 2.5; it must be a whole number"),
        ({"width": 0}, "width is 0"),
        ({"penalty": -1.0}, "penalty is -1.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"warmup": 1.5}, "warmup is 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        HolisticKD(**settings)


@pytest.mark.parametrize(
    ("task", "sizes", "settings", "words"),
    [
        ("regression", {"num_logits": 1}, {"reads": "probabilities"}, "1 output of a regression task is no law"),
        ("single_label", {"num_logits": 1}, {"reads": "probabilities"}, "1 output of a single_label task is no law"),
        ("masked_lm", {"num_logits": 30522}, {}, "30522 columns.*set reads='hidden'"),
        ("encoder", {"num_logits": 0}, {}, "without a head has no logits; set reads='hidden'"),
    ],
)
def test_what_cannot_be_scored_is_refused(task: str, sizes: Any, settings: Any, words: str) -> None:
    pair = Pair.from_shapes(shape(**sizes), shape(**sizes), TASKS[task])
    with pytest.raises(IncompatiblePair, match=words):
        HolisticKD(**settings).bind(pair)


def test_states_of_other_widths_are_refused() -> None:
    pair = Pair.from_shapes(shape(width=4), shape(width=6), TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match="states are 4 wide, the teacher's 6"):
        HolisticKD(reads="hidden").bind(pair)
