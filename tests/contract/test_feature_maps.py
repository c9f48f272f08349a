"""What is special to feature map transfer: its three parts, and what each of them sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError
from hf_distill.objectives import FeatureMapTransfer, Pair
from hf_distill.tasks import TASKS
from tests.shapes import shape

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
PARTS = ("normalized_weight", "mean_weight", "variance_weight")


def states(seed: int) -> Tensor:
    return torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss(student: Tensor, teacher: Tensor, **settings: Any) -> float:
    objective = FeatureMapTransfer(**settings)
    objective.bind(Pair.from_shapes(shape(1), shape(1), TASKS["masked_lm"]))
    batch = {"input_ids": MASK, "attention_mask": MASK}
    return float(objective(*(Activations(mask=MASK, hidden={1: side}) for side in (student, teacher)), batch))


def only(part: str) -> dict[str, float]:
    return {name: float(name == part) for name in PARTS}


def test_the_parts_by_hand() -> None:
    """One token, features 1, 3 against 2, 8: means 2 and 5, variances 1 and 9, both normalised to -1, 1."""
    student, teacher = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, 8.0]]])
    mask = torch.ones(1, 1, dtype=torch.long)
    found = {}
    for name, settings in {**{part: only(part) for part in PARTS}, "default": {}, "plain": {"form": "plain"}}.items():
        objective = FeatureMapTransfer(**settings)
        objective.bind(Pair.from_shapes(shape(1, 2), shape(1, 2), TASKS["masked_lm"]))
        sides = [Activations(mask=mask, hidden={1: side}) for side in (student, teacher)]
        found[name] = float(objective(*sides, {"input_ids": mask}))
    assert found["normalized_weight"] == pytest.approx(0.0, abs=1e-9)
    assert found["mean_weight"] == pytest.approx(9.0, rel=1e-6)
    assert found["variance_weight"] == pytest.approx(8.0, rel=1e-6)
    assert found["default"] == pytest.approx(5000 * 9 + 5 * 8, rel=1e-6)
    assert found["plain"] == pytest.approx((1 + 25) / 2, rel=1e-6)


def test_terms_of_one_part_each_add_up_to_the_whole() -> None:
    weights = dict(zip(PARTS, (100.0, 5000.0, 5.0), strict=True))
    parts = [weights[part] * loss(states(0), states(1), **only(part)) for part in PARTS]
    assert all(value > 0 for value in parts)
    assert sum(parts) == pytest.approx(loss(states(0), states(1)), rel=1e-12)


def test_the_normalised_part_alone_ignores_scale_and_shift_of_a_token() -> None:
    scale = torch.tensor([0.5, 2.0, 3.0], dtype=torch.float64)[:, None]
    moved = states(0) * scale + torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)[:, None]
    for part in PARTS:
        settings = only(part)
        same = loss(moved, states(1), **settings) == pytest.approx(loss(states(0), states(1), **settings), rel=1e-9)
        assert same is (part == "normalized_weight")


def test_the_mean_over_blocks_or_their_sum() -> None:
    batch = {"input_ids": MASK, "attention_mask": MASK}
    sides = [Activations(mask=MASK, hidden={1: states(seed), 2: states(seed + 1)}) for seed in (0, 5)]
    expected = loss(states(0), states(5)) + loss(states(1), states(6))
    for layer_reduction, part in (("sum", 1.0), ("mean", 0.5)):
        objective = FeatureMapTransfer(layer_reduction=layer_reduction)
        objective.bind(Pair.from_shapes(shape(2), shape(2), TASKS["masked_lm"]))
        assert float(objective(*sides, batch)) == pytest.approx(part * expected, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"form": "decompsed"}, "form is 'decompsed' .did you mean 'decomposed'"),
        ({"mean_weight": -1.0}, "mean_weight is -1.0; it must be a number at least 0"),
        ({"variance_weight": float("nan")}, "variance_weight is nan"),
        ({"normalized_weight": 0, "mean_weight": 0, "variance_weight": 0}, "all three weights are 0"),
        ({"layer_map": "one to one"}, "did you mean 'one_to_one'"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        FeatureMapTransfer(**settings)
