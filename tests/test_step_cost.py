"""What one training step may cost in operators, and that it never waits for the device."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertForSequenceClassification, Trainer

from hf_distill import DistillationTrainer, HiddenCosine, HiddenMSE, Labels, SoftTargets
from tests import tiny


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def __enter__(self) -> Operators:
        super().__enter__()
        return self

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names[str(func)] += 1
        return func(*args, **(kwargs or {}))


class Rows(torch.utils.data.Dataset):
    """Ready batches of one size; from the third to the fourth request, operators are counted."""

    def __init__(self) -> None:
        self.requests = 0
        self.operators = Operators()

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.requests += 1
        if self.requests == 3:
            self.operators.__enter__()
        if self.requests == 4:
            self.operators.__exit__(None, None, None)
        ids = torch.randint(4, 96, (4, 8), generator=torch.Generator().manual_seed(index))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[:, 0] % 2}


class HandWritten(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        with torch.no_grad():
            teacher_logits = self.teacher(**inputs).logits
        outputs = model(**inputs)
        kl = functional.kl_div(
            functional.log_softmax(outputs.logits / 2, -1),
            functional.softmax(teacher_logits / 2, -1),
            reduction="batchmean",
        )
        return 0.5 * functional.cross_entropy(outputs.logits, labels) + 0.5 * 4 * kl


def model(layers: int) -> BertForSequenceClassification:
    torch.manual_seed(layers)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=96,
            hidden_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=48,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


QUIET = {
    "max_steps": 6,
    "logging_strategy": "no",
    "logging_nan_inf_filter": False,
    "per_device_train_batch_size": 1,
}


def counted(kind: type[Trainer], **given) -> Counter[str]:
    return trained(kind, **given).train_dataset.operators.names


def trained(kind: type[Trainer], arguments: dict | None = None, **given) -> Trainer:
    student, rows = model(3), Rows()
    trainer = kind(
        model=student,
        args=tiny.arguments(**{**QUIET, **(arguments or {})}),
        train_dataset=rows,
        data_collator=lambda items: items[0],
        optimizers=(torch.optim.AdamW(student.parameters(), lr=1e-4, fused=True), None),
        **given,
    )
    if kind is HandWritten:
        trainer.teacher = model(6).eval().requires_grad_(False)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def hand_written() -> Counter[str]:
    return counted(HandWritten)


def test_a_step_takes_fewer_operators_than_a_hand_written_loss(hand_written: Counter[str]) -> None:
    ours = counted(
        DistillationTrainer, teacher=model(6), objectives=0.5 * SoftTargets(temperature=2.0) + 0.5 * Labels()
    )
    assert hand_written.total() > 600
    assert ours.total() <= 0.92 * hand_written.total(), ours - hand_written


def test_counts_over_processes_copy_nothing_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor made of a Python number and moved to a GPU waits for it."""
    trainer = DistillationTrainer(
        model=model(3), teacher=model(6), objectives=SoftTargets() + Labels(), args=tiny.arguments()
    )
    batch = tiny.Pad()(tiny.rows("single_label", 5))
    batch["labels"][0] = -100
    monkeypatch.setattr(type(trainer.accelerator), "num_processes", property(lambda self: 2))
    monkeypatch.setattr(trainer, "_sum_over_ranks", lambda values: 2 * values)
    with Operators() as operators:
        counts = trainer._get_num_items_in_batch([batch, batch], trainer.args.device)
    assert [int(divisor) for divisor in counts.divisors] == [20, 16]
    assert operators.names["aten.lift_fresh.default"] == 0


def test_no_term_waits_for_the_device(hand_written: Counter[str]) -> None:
    """The stock models ask once a forward pass whether the mask is all ones; here they are not made to."""
    waits = ("aten._local_scalar_dense.default", "aten.is_nonzero.default", "aten.nonzero.default")
    terms = SoftTargets() + Labels() + HiddenCosine(layer_map="last") + HiddenMSE()
    ours = counted(DistillationTrainer, teacher=model(6), objectives=terms)
    assert sum(hand_written[name] for name in waits) == 2
    assert sum(ours[name] for name in waits) == 0


def test_gradients_that_are_not_clipped_are_not_touched() -> None:
    """Their norm is logged all the same."""
    seen: list[float] = []

    def remember(optimizer: torch.optim.Optimizer, *_: object) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        seen.append(math.sqrt(sum(float((g.double() ** 2).sum()) for g in gradients)))

    handle = register_optimizer_step_pre_hook(remember)
    try:
        asked = {"max_grad_norm": 0.0, "logging_strategy": "steps", "logging_steps": 1}
        trainer = trained(DistillationTrainer, asked, teacher=model(6), objectives=SoftTargets() + Labels())
    finally:
        handle.remove()
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert logged == pytest.approx(seen, rel=1e-5)
    assert len(seen) == 6
    assert not any("_foreach_mul_" in name for name in trainer.train_dataset.operators.names)


def test_modes_and_gradients_are_those_of_torch() -> None:
    """`Distillation` walks over a list of its modules where torch would walk over the tree at every step."""
    trainer = DistillationTrainer(
        model=model(2), teacher=model(3), objectives=HiddenMSE(projection="shared") + Labels(), args=tiny.arguments()
    )
    whole = trainer.distillation
    for mode in (True, False, True):
        whole.student.bert.encoder.layer[1].train(not mode)
        whole.train(mode)
        assert {module.training for module in whole.modules()} == {mode}
    expected = {id(parameter) for parameter in whole.parameters()}
    for parameter in whole.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert {id(gradient) for gradient in whole.gradients()} == {id(p.grad) for p in whole.parameters()}
    assert len(whole.gradients()) == len(expected)
    whole.zero_grad(set_to_none=False)
    assert all(parameter.grad.abs().max() == 0 for parameter in whole.parameters())
    whole.zero_grad()
    assert all(parameter.grad is None for parameter in whole.parameters())
