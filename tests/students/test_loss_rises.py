"""The rise of the loss without a feature, against the head applied to changed states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.anatomy import Anatomy
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.objectives.base import Rises
from hf_distill.students.loss_rises import loss_rises
from hf_distill.tasks import task_of
from tests import tiny


def batches() -> list[dict[str, Tensor]]:
    rows = tiny.rows("single_label", 6)
    return [tiny.Pad(extra=2)(rows[:4]), tiny.Pad()(rows[4:])]


def last_states(model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states: Tensor = model(**inputs, output_hidden_states=True).hidden_states[-1]
    return states.detach()


def test_ablation_sets_a_feature_to_zero() -> None:
    model = tiny.model("single_label", dropout=0.1).eval()
    anatomy, task = Anatomy.of(model), task_of(model)
    model.train()
    found = loss_rises(model, task, Rises((1, 2), "", "ablation", 2), batches())
    assert model.training
    assert found.shape == (2, 32)
    model.eval()

    def loss(feature: int | None) -> float:
        total = 0.0
        for batch in batches():
            states = last_states(model, batch)
            if feature is not None:
                states[..., feature] = 0.0
            total += float(functional.cross_entropy(anatomy.head(states), batch["labels"], reduction="sum").detach())
        return total / 6

    for feature in (0, 7, 31):
        assert float(found[1, feature]) == pytest.approx(loss(feature) - loss(None), abs=1e-6)
    assert found[0].abs().max() > 1e-4


def test_the_gradient_estimates_it() -> None:
    model = tiny.model("single_label").eval()
    anatomy, task = Anatomy.of(model), task_of(model)
    found = loss_rises(model, task, Rises((2,), "", "gradient", 2), batches())
    total, tokens = torch.zeros(32), 0
    for batch in batches():
        states = last_states(model, batch).requires_grad_()
        functional.cross_entropy(anatomy.head(states), batch["labels"], reduction="sum").backward()
        assert states.grad is not None
        real = batch["attention_mask"].bool()
        total += (states.detach() * states.grad)[real].abs().sum(0)
        tokens += int(real.sum())
    torch.testing.assert_close(found[0], total / tokens, rtol=1e-5, atol=1e-8)
    assert all(parameter.grad is None for parameter in model.base_model.encoder.parameters())


def test_refuses_what_cannot_be_measured() -> None:
    model = tiny.model("single_label")
    task = task_of(model)
    with pytest.raises(IncompatiblePair, match="no batch to weigh the features on"):
        loss_rises(model, task, Rises((1,), "", "gradient", 2), [])
    unlabelled = [{name: tensor for name, tensor in batch.items() if name != "labels"} for batch in batches()]
    with pytest.raises(DataError, match="'labels'"):
        loss_rises(model, task, Rises((1,), "", "ablation", 2), unlabelled)
    with pytest.raises(IncompatiblePair, match="layer 0 has no block of its own"):
        loss_rises(model, task, Rises((0,), "", "ablation", 2), batches())
    model.base_model.requires_grad_(False)
    with pytest.raises(IncompatiblePair, match="depend on nothing that trains"):
        loss_rises(model, task, Rises((1,), "", "gradient", 2), batches())
