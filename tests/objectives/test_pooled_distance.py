"""The distance of pooled states, `pooled_distance`: values by hand, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_distill import PooledDistance
from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests.shapes import shape

MASK = torch.tensor([[1, 1, 1], [0, 1, 1], [0, 0, 0]])
PLACES = {"first_token": (0, 1), "last_token": (2, 2)}


def states(seed: int, width: int = 4) -> Tensor:
    made = torch.randn(3, 3, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.where(MASK.bool().unsqueeze(-1), made, torch.nan)


def summed(objective: PooledDistance, ours: Tensor, theirs: Tensor) -> Tensor:
    batch = {"input_ids": torch.zeros_like(MASK), "attention_mask": MASK}
    objective.bind(Pair.from_shapes(shape(width=ours.shape[-1]), shape(width=theirs.shape[-1]), TASKS["masked_lm"]))
    assert int(objective.count(batch, TASKS["masked_lm"])) == 2
    found = objective.double()(
        Activations(mask=MASK, hidden={2: ours}), Activations(mask=MASK, hidden={2: theirs}), batch
    )
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("kind", ["l1", "mse"])
@pytest.mark.parametrize("pooling", PLACES)
def test_a_token(pooling: str, kind: str) -> None:
    """Means over the width, summed over the texts that have a token; the padding is on the left, and NaN."""
    ours, theirs = states(0), states(1)
    expected = 0.0
    for row, place in enumerate(PLACES[pooling]):
        for s, t in zip(ours[row, place].tolist(), theirs[row, place].tolist(), strict=True):
            expected += (abs(s - t) if kind == "l1" else (s - t) ** 2) / 4
    assert float(summed(PooledDistance(kind=kind, pooling=pooling), ours, theirs)) == pytest.approx(expected, rel=1e-9)


def test_the_mean_of_the_tokens() -> None:
    ours, theirs = states(0), states(1)
    means = [(each[0].mean(0), each[1, 1:].mean(0)) for each in (ours, theirs)]
    expected = sum((s - t).abs().mean() for s, t in zip(*means, strict=True))
    torch.testing.assert_close(summed(PooledDistance(pooling="mean"), ours, theirs), expected)


def test_a_projection_where_widths_differ() -> None:
    objective = PooledDistance(projection="per_layer")
    torch.manual_seed(0)
    found = summed(objective, states(0, 4), states(1, 6))
    weight, bias = objective.projections[0].weight, objective.projections[0].bias
    pairs = [(states(0, 4)[row, place], states(1, 6)[row, place]) for row, place in enumerate(PLACES["first_token"])]
    torch.testing.assert_close(found, sum((weight @ s + bias - t).abs().mean() for s, t in pairs))
    with pytest.raises(IncompatiblePair, match=r"4 wide, the teacher's 6"):
        summed(PooledDistance(), states(0, 4), states(1, 6))


def test_a_causal_model_is_not_pooled_at_its_first_token() -> None:
    causal = Pair.from_shapes(shape(causal=True), shape(causal=True), TASKS["causal_lm"])
    with pytest.raises(IncompatiblePair, match="pooled_distance: the student is causal"):
        PooledDistance().bind(causal)
    PooledDistance(pooling="last_token").bind(causal)


def test_settings_that_are_none() -> None:
    with pytest.raises(DistillationError, match="pooled_distance: kind is 'l2'"):
        PooledDistance(kind="l2")
