"""What users put in place of the `Trainer`'s own: loss functions, methods, optimizers, models, loaders."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import Tensor, nn
from torch.utils.data import IterableDataset
from transformers import Adafactor, Trainer
from transformers.optimization import AdafactorSchedule

from hf_distill import (
    DistillationError,
    DistillationTrainer,
    HiddenMSE,
    IncompatiblePair,
    Labels,
    SoftTargets,
)
from hf_distill.objectives import LossFunction
from tests import tiny, tiny_runs
from tests.dropin import sides
from tests.dropin.sides import each_side

Side = Callable[..., Any]


def smooth(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | None = None) -> Tensor:
    """Cross-entropy with a penalty, over the labels of the window; it reads the outputs in all the ways there are."""
    assert outputs["logits"] is outputs.logits
    assert outputs[0] is outputs.logits
    losses = nn.functional.cross_entropy(outputs.logits, labels, reduction="none") + 0.1 * outputs.logits.square().sum(
        1
    )
    return losses.sum() / num_items_in_batch


# ---- compute_loss_func ----


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_loss_function_trains_and_evaluates_like_the_trainers(accumulation: int) -> None:
    settings = {
        "per_device_train_batch_size": 8 // accumulation,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 5,
        "per_device_eval_batch_size": 5,
    }
    stock, ours = (make(settings, compute_loss_func=smooth) for make in (sides.stock, sides.ours))
    plain = sides.ours(settings)
    for trainer in (stock, ours, plain):
        trainer.train()
    sides.assert_same_run(ours, stock)
    assert tiny.distance(ours.model, plain.model) > 1e-3
    assert ours.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], rel=1e-6)
    assert ours.state.log_history[0]["objective/loss_function"] == pytest.approx(stock.state.log_history[0]["loss"])


def test_beside_a_teacher_a_loss_function_takes_the_place_of_the_labels() -> None:
    found = sides.taught({"max_steps": 2}, compute_loss_func=smooth)
    assert [(term.name, term.weight) for term in found.terms] == [("soft_targets", 0.5), ("loss_function", 0.5)]
    terms = 0.5 * SoftTargets(temperature=2.0) + 0.5 * LossFunction(smooth)
    named = sides.taught({"max_steps": 2}, objectives=terms)
    for trainer in (found, named):
        trainer.train()
    assert tiny.distance(found.model, named.model) == 0.0
    assert named.evaluate()["eval_loss"] == pytest.approx(sides.stock(model=named.model).evaluate()["eval_loss"])
    assert LossFunction(smooth).settings() == {"function": "smooth"}


def test_without_labels_a_loss_function_gets_none_and_weighs_examples() -> None:
    """The Trainer would add up the micro-batches of a window as if each were the whole."""
    counts = []

    def spread(outputs: Any, labels: Tensor | None, num_items_in_batch: Tensor | None = None) -> Tensor:
        counts.append((labels, num_items_in_batch))
        return outputs.logits.square().mean()

    rows = [{k: v for k, v in row.items() if k != "labels"} for row in tiny.rows("single_label", 16)]
    runs = []
    for size, accumulation in ((8, 1), (4, 2)):
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "max_steps": 2}
        trainer = sides.ours(settings, compute_loss_func=spread, train_dataset=rows)
        trainer.train()
        runs.append(trainer.model)
    assert tiny.distance(*runs) < 1e-6
    assert set(counts) == {(None, None)}


def test_loss_functions_that_do_not_fit_are_refused() -> None:
    with pytest.raises(IncompatiblePair, match="start_positions, end_positions"):
        sides.ours(task="question_answering", compute_loss_func=smooth)
    many = sides.ours(compute_loss_func=lambda outputs, labels, num_items_in_batch: outputs.logits)
    with pytest.raises(DistillationError, match=r"returned a tensor of shape \(8, 3\)"):
        many.train()


# ---- methods of a subclass ----


@each_side
def test_an_override_of_compute_loss_sees_the_outputs(side: Side) -> None:
    kind = Trainer if side is sides.stock else DistillationTrainer
    shapes = []

    class Penalised(kind):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            shapes.append(outputs["logits"].shape)
            assert outputs.loss is outputs[0]
            loss = loss + 0.01 * outputs.logits.square().mean()
            return (loss, outputs) if return_outputs else loss

    given = {"max_steps": 3}
    penalised, plain = side(given, kind=Penalised), side(given)
    for trainer in (penalised, plain):
        trainer.train()
    assert shapes == [(8, 3), (8, 3), (4, 3)]
    assert tiny.distance(penalised.model, plain.model) > 1e-5
    if side is sides.ours:
        stock = sides.stock(given, kind=_penalised_trainer())
        stock.train()
        assert tiny.distance(penalised.model, stock.model) < 1e-6


def _penalised_trainer() -> type[Trainer]:
    class Penalised(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
            return loss + 0.01 * outputs.logits.square().mean()

    return Penalised


@each_side
def test_an_override_of_compute_loss_may_call_the_model_itself(side: Side) -> None:
    """What it is handed in place of the model takes the columns by name, and gives the student's output."""
    kind = Trainer if side is sides.stock else DistillationTrainer

    class Own(kind):
        loss_is_scaled_for_ga = False

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.3)
            return (loss, outputs) if return_outputs else loss

    settings = {"max_steps": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer, smoothed = side(settings, kind=Own), sides.ours({"max_steps": 2, "label_smoothing_factor": 0.3})
    for each in (trainer, smoothed):
        each.train()
    assert tiny.distance(trainer.model, smoothed.model) < 1e-6


@each_side
def test_an_override_of_create_optimizer_knows_the_students_names(side: Side) -> None:
    kind = Trainer if side is sides.stock else DistillationTrainer

    class Layered(kind):
        def create_optimizer(self, model=None):
            head = [p for name, p in self.model.named_parameters() if name.startswith("classifier.")]
            rest = [p for name, p in self.model.named_parameters() if name.startswith("bert.")]
            self.optimizer = torch.optim.SGD([{"params": rest, "lr": 0.01}, {"params": head, "lr": 0.2}])
            return self.optimizer

    others = {"objectives": HiddenMSE() + Labels()} if side is sides.taught else {}
    if side is sides.taught:
        others["teacher"] = tiny.model("single_label", layers=3, hidden=48, seed=2)
        trainer = sides.ours({"max_steps": 2}, kind=Layered, **others)
    else:
        trainer = side({"max_steps": 2}, kind=Layered)
    trainer.train()
    found = [(len(group["params"]), group["lr"]) for group in trainer.optimizer.param_groups]
    students = len(list(trainer.model.parameters()))
    assert found[:2] == [(students - 2, 0.01), (2, 0.2)]
    if side is sides.taught:
        beside = list(trainer.distillation.beside.parameters())
        assert found[2] == (len(beside), 1e-3), "what the objective learns follows at the optimizer's own rate"
        assert beside
        return
    stock = sides.stock({"max_steps": 2}, kind=Layered if side is sides.stock else _layered_trainer())
    stock.train()
    assert tiny.distance(trainer.model, stock.model) < 1e-6


def test_what_a_subclass_asks_of_create_optimizer_holds_what_objectives_learn() -> None:
    class Halved(DistillationTrainer):
        def create_optimizer(self, model=None):
            optimizer = super().create_optimizer(model)
            for group in optimizer.param_groups:
                group["lr"] *= 0.5
            return optimizer

    others = {"objectives": HiddenMSE() + Labels(), "teacher": tiny.model("single_label", layers=3, hidden=48, seed=2)}
    settings = {"max_steps": 2, "weight_decay": 0.1}
    halved = sides.ours(settings, kind=Halved, **others)
    halved.train()
    held = [(len(group["params"]), group["lr"]) for group in halved.optimizer.param_groups]
    assert [rate for _, rate in held] == [0.05, 0.05]
    assert sum(number for number, _ in held) == len(list(halved.distillation.parameters()))
    others = {"objectives": HiddenMSE() + Labels(), "teacher": tiny.model("single_label", layers=3, hidden=48, seed=2)}
    plain = sides.ours({**settings, "learning_rate": 0.05}, **others)
    plain.train()
    assert tiny.distance(halved.distillation, plain.distillation) == 0.0


def _layered_trainer() -> type[Trainer]:
    class Layered(Trainer):
        def create_optimizer(self, model=None):
            head = list(self.model.classifier.parameters())
            self.optimizer = torch.optim.SGD(
                [{"params": self.model.bert.parameters(), "lr": 0.01}, {"params": head, "lr": 0.2}]
            )
            return self.optimizer

    return Layered


class Loaders:
    """A loader without a data set of its own."""

    def __init__(self, loaders: list[Any]) -> None:
        self.loaders = loaders

    def __len__(self) -> int:
        return sum(map(len, self.loaders))

    def __iter__(self):
        for loader in self.loaders:
            yield from loader


@each_side
def test_an_override_of_the_loaders_needs_no_data_set(side: Side) -> None:
    kind = Trainer if side is sides.stock else DistillationTrainer

    class Doubled(kind):
        def get_train_dataloader(self):
            return Loaders([super(Doubled, self).get_train_dataloader() for _ in range(2)])

        def get_eval_dataloader(self, eval_dataset=None):
            return Loaders([super(Doubled, self).get_eval_dataloader(eval_dataset) for _ in range(2)])

    trainer = side({"max_steps": -1, "num_train_epochs": 1}, kind=Doubled)
    assert trainer.train().global_step == 6
    once = sides.ours(model=trainer.model).evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(once, abs=1e-6)


# ---- optimizers ----


def sgd(model: nn.Module) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)


def adafactor(model: nn.Module) -> tuple[Any, Any]:
    optimizer = Adafactor(model.parameters(), scale_parameter=True, relative_step=True, warmup_init=True, lr=None)
    return optimizer, AdafactorSchedule(optimizer)


@pytest.mark.parametrize("make", [sgd, pytest.param(adafactor, marks=pytest.mark.slow)])
def test_optimizers_of_the_callers(make: Callable[[nn.Module], tuple[Any, Any]]) -> None:
    runs = []
    for side in sides.SIDES.values():
        model = tiny.model("single_label", seed=1)
        optimizers = make(model)
        trainer = side({"max_steps": 3}, model=model, optimizers=optimizers)
        trainer.train()
        assert trainer.optimizer.optimizer is optimizers[0]
        runs.append(trainer)
    stock, ours, taught = runs
    sides.assert_same_run(ours, stock)
    sides.assert_trained_alike(taught, stock, same_rates=make is sgd)  # Adafactor's follow the gradients


class Factory:
    """Makes an optimizer of the whole model, as those of some kinds ask for."""

    def __call__(self, opt_model: nn.Module, **settings: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in opt_model.parameters() if p.requires_grad], **settings)


@pytest.mark.parametrize("kind", [pytest.param(torch.optim.RMSprop, marks=pytest.mark.slow), Factory])
def test_optimizers_by_class_and_settings(kind: type) -> None:
    stock, ours, taught = (
        side({"max_steps": 3}, optimizer_cls_and_kwargs=(kind, {"lr": 0.01})) for side in sides.SIDES.values()
    )
    for trainer in (stock, ours, taught):
        trainer.train()
    sides.assert_same_run(ours, stock)
    sides.assert_trained_alike(taught, stock)


@each_side
def test_an_optimizer_that_is_made_before_training(side: Side) -> None:
    trainer = side({"learning_rate": 0.01, "weight_decay": 0.1, "optim": "adamw_torch"})
    with pytest.raises(ValueError, match="optimizer"):
        trainer.get_learning_rates()
    trainer.create_optimizer_and_scheduler(num_training_steps=4)
    assert trainer.get_learning_rates() == [0.01, 0.01]
    names = {id(parameter): name for name, parameter in trainer.model.named_parameters()}
    decayed, others = ([names[id(p)] for p in group["params"]] for group in trainer.optimizer.param_groups)
    assert not [name for name in decayed if "bias" in name or "LayerNorm" in name]
    assert sorted([*decayed, *others]) == sorted(names.values())
    first = trainer.optimizer.param_groups[0]
    assert trainer.get_optimizer_group(first["params"][0]) is first
    assert trainer.get_num_trainable_parameters() == trainer.model.num_parameters()
    trainer.train()
    assert trainer.state.global_step == 4


# ---- models and rows ----


@each_side
def test_frozen_parameters_stay(side: Side) -> None:
    model = tiny.model("single_label", seed=1)
    model.bert.embeddings.requires_grad_(False)
    before = model.bert.embeddings.word_embeddings.weight.clone()
    trainer = side({"optim": "adamw_torch_fused"}, model=model)
    trainer.train()
    assert torch.equal(model.bert.embeddings.word_embeddings.weight, before)
    assert not model.bert.embeddings.word_embeddings.weight.requires_grad
    assert tiny.distance(model.classifier, tiny.model("single_label", seed=1).classifier) > 0


@pytest.mark.slow
@each_side
def test_model_init_starts_anew_each_time(side: Side) -> None:
    model = tiny.model("single_label", seed=1, dropout=0.1)
    trainer = side({"max_steps": 2}, model_init=lambda: copy.deepcopy(model))
    runs = []
    for seed in (42, 42, 7):
        trainer.args.seed = seed
        trainer.train()
        runs.append(trainer.model)
    assert tiny.distance(runs[0], runs[1]) == 0.0
    assert tiny.distance(runs[0], runs[2]) > 1e-4


@pytest.mark.slow
@each_side
def test_training_again_goes_on(side: Side) -> None:
    trainer = side({"max_steps": 2})
    trainer.train()
    first = [parameter.clone() for parameter in trainer.model.parameters()]
    trainer.train()
    assert trainer.state.global_step == 2
    if side is sides.ours:
        stock = sides.stock({"max_steps": 2})
        stock.train()
        stock.train()
        assert tiny.distance(trainer.model, stock.model) < 1e-6
    assert any(not torch.equal(a, b) for a, b in zip(first, trainer.model.parameters(), strict=True))


class Stream(IterableDataset):
    def __iter__(self):
        return iter([{**row, "extra": 1.0} for row in tiny.rows("single_label", 20)])


def rows_of(kind: str) -> Any:
    rows = tiny.rows("single_label", 20)
    if kind == "stream":
        return Stream()
    data = Dataset.from_list([{**row, "extra": {"place": [1.0, 2.0], "name": "a"}} for row in rows])
    return data.to_iterable_dataset() if kind == "stream of a library" else data


def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    assert all("extra" not in item for item in items), "columns that no model takes are left out"
    return tiny.Pad()(items)


@pytest.mark.parametrize(
    "kind", ["stream", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("stream of a library", "columns"))]
)
def test_rows_of_every_kind(kind: str) -> None:
    expected = sides.stock({"max_steps": 4})
    expected.train()
    for side in sides.SIDES.values():
        trainer = side({"max_steps": 4}, train_dataset=rows_of(kind), data_collator=collate)
        trainer.train()
        assert trainer.state.global_step == 4
        if side is not sides.taught:
            assert tiny.distance(trainer.model, expected.model) < 1e-6, side


@pytest.mark.parametrize("tokenized", [True, False])
def test_collators_by_default(tokenized: bool) -> None:
    """That of the tokenizer pads; without one, rows of one length are stacked, tensors too."""
    rows = Dataset.from_list(tiny.rows("single_label", 20, shortest=5 if tokenized else 9, longest=9))
    rows = rows.remove_columns("attention_mask").rename_column("labels", "label").with_format("torch")
    processing = tiny_runs.tokenizer() if tokenized else None
    stock, ours, taught = (
        side({"max_steps": 3}, train_dataset=rows, data_collator=None, processing_class=processing)
        for side in sides.SIDES.values()
    )
    for trainer in (stock, ours, taught):
        trainer.train()
    sides.assert_same_run(ours, stock)
    sides.assert_trained_alike(taught, stock)


@each_side
def test_nested_columns_reach_the_batch_and_trouble_nobody(side: Side) -> None:
    seen = []

    def nested(items: list[dict[str, Any]]) -> dict[str, Any]:
        batch = {"extra": {"places": [torch.ones(len(items)), (torch.zeros(len(items)),)]}, **tiny.Pad()(items)}
        seen.append(batch)
        return batch

    settings = {"max_steps": 2, "remove_unused_columns": False}
    trainer = side(settings, data_collator=nested)
    trainer.train()
    assert math.isfinite(trainer.evaluate()["eval_loss"])
    assert len(seen) >= 3
    plain = side({"max_steps": 2})
    plain.train()
    assert tiny.distance(trainer.model, plain.model) == 0.0


def test_accumulation_is_that_of_the_trainer_where_it_is_right() -> None:
    """The Trainer at 8 x 1 is the measure of both: at 4 x 2 its classifiers ignore the count of the window that they
    are handed, and their gradients are twice as large."""
    whole = sides.stock({"max_steps": 3})
    cut = sides.ours({"max_steps": 3, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2})
    for trainer in (whole, cut):
        trainer.train()
    assert tiny.distance(cut.model, whole.model) < 1e-6
    assert [row["loss"] for row in sides.history(cut)[:3]] == pytest.approx(
        [row["loss"] for row in sides.history(whole)[:3]], rel=1e-6
    )


@pytest.mark.parametrize("task", [pytest.param("single_label", marks=pytest.mark.slow), "causal_lm"])
def test_label_smoothing_is_that_of_the_trainer(task: str) -> None:
    settings = {"max_steps": 3, "label_smoothing_factor": 0.2}
    stock, ours = sides.stock(settings, task), sides.ours(settings, task)
    for trainer in (stock, ours):
        trainer.train()
    sides.assert_same_run(ours, stock, within=2e-6)
