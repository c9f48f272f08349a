"""What is special to distances between hidden states: reductions, projections, layer maps, stacks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.layer_map import LayerMap
from hf_distill.objectives import HiddenCosine, HiddenMSE, Objective, Pair
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape

BOTH = pytest.mark.parametrize("cls", [HiddenCosine, HiddenMSE])


def bound(
    objective: Objective, student: int = 2, teacher: int = 2, task: str = "masked_lm", **shapes: Any
) -> Objective:
    objective.bind(Pair.from_shapes(shape(2, student, **shapes), shape(2, teacher, **shapes), TASKS[task]))
    return objective


def batch_of(mask: Tensor) -> dict[str, Tensor]:
    return {"input_ids": torch.zeros_like(mask), "attention_mask": mask}


def test_cosine_and_mse_by_hand() -> None:
    mask = torch.tensor([[1, 1], [1, 0]])
    student = torch.tensor([[[1.0, 0.0], [3.0, 4.0]], [[0.0, 2.0], [7.0, 7.0]]])
    teacher = torch.tensor([[[1.0, 1.0], [3.0, 4.0]], [[0.0, -1.0], [0.0, 0.0]]])
    sides = [Activations(mask=mask, hidden={2: state}) for state in (student, teacher)]
    cosine, mse = bound(HiddenCosine()), bound(HiddenMSE(layer_map="final"))
    assert float(cosine(*sides, batch_of(mask))) == pytest.approx((1 - math.sqrt(0.5)) + 0 + 2, rel=1e-6)
    assert float(mse(*sides, batch_of(mask))) == pytest.approx(0.5 + 0 + 4.5, rel=1e-6)
    assert int(cosine.count(batch_of(mask), TASKS["masked_lm"])) == 3
    per_example = bound(HiddenMSE(layer_map="final", reduction="example_mean"))
    assert float(per_example(*sides, batch_of(mask))) == pytest.approx(0.25 + 4.5, rel=1e-6)
    assert int(per_example.count(batch_of(mask), TASKS["masked_lm"])) == 2


@BOTH
def test_layers_are_averaged_or_summed(cls: type[Objective]) -> None:
    mask = torch.ones(1, 3, dtype=torch.long)
    sides = [Activations(mask=mask, hidden={i: torch.randn(1, 3, 2).double() for i in range(3)}) for _ in range(2)]
    single = [float(bound(cls(layer_map=[[i, i]]))(*sides, batch_of(mask))) for i in range(3)]
    mean = float(bound(cls(layer_map="spread"))(*sides, batch_of(mask)))
    total = float(bound(cls(layer_map="spread", layer_reduction="sum"))(*sides, batch_of(mask)))
    assert total == pytest.approx(sum(single), rel=1e-12)
    assert mean == pytest.approx(sum(single) / 3, rel=1e-12)


def test_cosine_of_a_zero_vector_is_one_and_finite() -> None:
    mask = torch.ones(1, 1, dtype=torch.long)
    student = torch.zeros(1, 1, 2, requires_grad=True)
    found = bound(HiddenCosine())(
        Activations(mask=mask, hidden={2: student}),
        Activations(mask=mask, hidden={2: torch.ones(1, 1, 2)}),
        batch_of(mask),
    )
    found.backward()
    assert float(found.detach()) == 1.0
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


@BOTH
def test_cosine_ignores_length_and_mse_does_not(cls: type[Objective]) -> None:
    mask = torch.ones(1, 2, dtype=torch.long)
    student, teacher = torch.randn(2, 1, 2, 2).double()
    values = [
        float(bound(cls(layer_map="final"))(*(Activations(mask=mask, hidden={2: s}) for s in sides), batch_of(mask)))
        for sides in ((student, teacher), (3.0 * student, 5.0 * teacher))
    ]
    assert (values[0] == pytest.approx(values[1], rel=1e-9)) is (cls is HiddenCosine)


@BOTH
def test_an_example_without_text_does_not_count(cls: type[Objective]) -> None:
    batch = batch_of(torch.tensor([[1, 1], [0, 0], [1, 0]]))
    objective = bound(cls(reduction="example_mean"))
    assert int(objective.count(batch, TASKS["masked_lm"])) == 2


# ---- projections ----


@pytest.mark.parametrize(("projection", "number"), [("per_layer", 3), ("per_level", 2), ("shared", 1)])
def test_projections_exist_where_widths_differ(projection: str, number: int) -> None:
    objective = bound(HiddenMSE(projection=projection), 4, 6)
    assert [tuple(p.shape) for p in objective.parameters()] == [(6, 4), (6,)] * number
    assert list(bound(HiddenMSE(projection=projection), 4, 4).parameters()) == []


def test_a_level_is_the_embedding_output_or_all_blocks() -> None:
    """One term of two levels is a term of the embedding output and one of the blocks, each with its one projection."""
    mask = torch.ones(1, 3, dtype=torch.long)
    sides = [
        Activations(mask=mask, hidden={i: torch.randn(1, 3, width).double() for i in range(3)}) for width in (4, 6)
    ]
    both = bound(HiddenMSE(projection="per_level", layer_reduction="sum"), 4, 6)
    parts = [
        bound(HiddenMSE(layer_map=pairs, projection="shared", layer_reduction="sum"), 4, 6)
        for pairs in ([[0, 0]], [[1, 1], [2, 2]])
    ]
    for part, projection in zip(parts, both.projections, strict=True):
        part.projections[0].load_state_dict(projection.state_dict())
    values = [float(objective(*sides, batch_of(mask)).detach()) for objective in (both, *parts)]
    assert values[0] == pytest.approx(values[1] + values[2], rel=1e-12)


def test_a_projection_starts_as_an_isometry() -> None:
    weight = bound(HiddenMSE(projection="shared"), 4, 6).projections[0].weight
    torch.testing.assert_close(weight.T @ weight, torch.eye(4), rtol=0, atol=1e-5)
    narrow = bound(HiddenMSE(projection="shared"), 64, 32).projections[0]
    assert 0.018 < float(narrow.weight.detach().std()) < 0.022
    assert not narrow.bias.any()


def test_binding_again_to_equal_widths_takes_the_projections_away() -> None:
    objective = bound(HiddenMSE(), 4, 6)
    assert list(bound(objective, 4, 4).parameters()) == []


# ---- settings ----


@BOTH
@pytest.mark.parametrize("layer_map", [LayerMap([(1, 2), (2, 2)]), ((1, 2), (2, 2)), [[1, 2], [2, 2]]])
def test_pairs_are_kept_as_a_recipe_writes_them(cls: type[Objective], layer_map: Any) -> None:
    settings = cls(layer_map=layer_map).settings()
    assert settings["layer_map"] == [[1, 2], [2, 2]]
    assert yaml.safe_load(yaml.safe_dump(settings)) == settings


@BOTH
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layer_map": "spred"}, "layer_map is 'spred' .did you mean 'spread'"),
        ({"layer_map": [1, 2]}, "1 is not a pair of whole numbers"),
        ({"layer_map": 3}, "layer_map is 3; it may be uniform, spread"),
        ({"layer_map": {1: 2}}, "layer_map is {1: 2}"),
        ({"layer_map": [[1, 2.0]]}, r"\[1, 2.0\] is not a pair"),
        ({"projection": "linear"}, "projection is 'linear'; it may be per_layer, per_level, shared, none"),
        ({"reduction": "mean"}, "reduction is 'mean'"),
        ({"stack": "both"}, "stack is 'both'"),
    ],
)
def test_settings_are_checked_where_they_enter(cls: type[Objective], settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        cls(**settings)


@BOTH
def test_a_stack_that_is_missing_is_refused(cls: type[Objective]) -> None:
    with pytest.raises(IncompatiblePair, match="decoder"):
        bound(cls(stack="decoder"))
    with pytest.raises(IncompatiblePair, match="encoder"):
        bound(cls(), task="seq2seq_lm", encoder_decoder=True)


@BOTH
def test_a_layer_out_of_range_is_refused(cls: type[Objective]) -> None:
    with pytest.raises(IncompatiblePair, match=rf"^{cls.name}: .*student layer 3 with teacher layer 1"):
        bound(cls(layer_map=[[3, 1]]))


# ---- what the decoder counts ----


@pytest.mark.parametrize(
    ("task", "columns", "count"),
    [
        ("seq2seq_lm", {"labels": torch.tensor([[5, 6, IGNORED], [7, IGNORED, IGNORED]])}, 3),
        (
            "seq2seq_lm",
            {"decoder_attention_mask": torch.tensor([[1, 1], [1, 1]]), "labels": torch.tensor([[5, IGNORED]])},
            4,
        ),
        ("seq2seq_lm", {"decoder_input_ids": torch.zeros(2, 5, dtype=torch.long)}, 10),
        ("single_label", {"labels": torch.tensor([0, 1])}, 6),
        ("question_answering", {"start_positions": torch.tensor([0, 1]), "end_positions": torch.tensor([0, 1])}, 6),
        ("multi_label", {"labels": torch.tensor([[0.0, IGNORED], [1.0, 1.0]])}, 6),
    ],
)
def test_what_the_decoder_counts(task: str, columns: dict[str, Tensor], count: int) -> None:
    objective = bound(HiddenCosine(stack="decoder"), task=task, encoder_decoder=True)
    batch = batch_of(torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])) | columns
    assert int(objective.count(batch, TASKS[task])) == count
