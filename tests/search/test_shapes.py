"""Shapes of tiny teachers, and the students that recipes make of them."""

from __future__ import annotations

import pytest
import torch
from transformers import PreTrainedModel

from hf_distill.recipe import Recipe
from hf_distill.search.shapes import Shape, by_width, depths_of, shapes_of
from tests import tiny_models


@pytest.fixture(scope="module")
def teacher() -> PreTrainedModel:
    return tiny_models.tiny("bert", tiny_models.CLASSIFIER, layers=2)  # 32 wide, 4 heads, 48 inside


@pytest.fixture(scope="module")
def shapes(teacher: PreTrainedModel) -> list[Shape]:
    found, left_out = shapes_of(teacher)
    assert left_out == []
    return found


def count(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_depths_and_quarters_of_heads_and_feed_forward(shapes: list[Shape], teacher: PreTrainedModel) -> None:
    widths = {(w.hidden_size, w.num_attention_heads, w.intermediate_size, w.whole) for w in by_width(shapes)}
    assert widths == {(32, 4, 48, True), (32, 4, 24, False), (24, 3, 36, False), (16, 2, 24, False), (8, 1, 12, False)}
    assert all([s.num_hidden_layers for s in same] == [1, 2] for same in by_width(shapes).values())
    assert [shape.params for shape in shapes] == sorted(shape.params for shape in shapes)
    assert (shapes[-1].name, shapes[-1].params) == ("2x32", count(teacher))
    assert {shape.name for shape in shapes} >= {"1x8-12", "2x32-24", "2x24-36"}


@pytest.mark.parametrize("place", [0, -1])
def test_students_have_as_many_parameters_as_was_said(
    shapes: list[Shape], teacher: PreTrainedModel, place: int
) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    assert count(shapes[place].model(teacher)) == shapes[place].params
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_recipes_take_every_shape_as_their_student(shapes: list[Shape]) -> None:
    for shape in shapes:
        student = Recipe.load("comparisons/soft_targets").override({"student": shape.section()}).student
        made = student.from_layers or student.from_shape
        assert made is not None
        assert (made.layers if student.from_layers else made.num_hidden_layers) == shape.num_hidden_layers


@pytest.mark.parametrize(
    ("layers", "depths"), [(1, [1]), (8, [*range(1, 9)]), (12, [1, 3, 4, 6, 7, 9, 10, 12]), (24, None)]
)
def test_deep_teachers_are_cut_to_eight_depths(layers: int, depths: list[int] | None) -> None:
    found = depths_of(layers)
    assert found == (depths or found)
    assert (len(found), found[0], found[-1]) == (min(layers, 8), 1, layers)


def test_a_family_that_cannot_be_resized_is_cut_in_depth() -> None:
    shapes, left_out = shapes_of(tiny_models.tiny("mobilebert", tiny_models.CLASSIFIER, layers=2))
    assert len(by_width(shapes)) == 1
    assert [shape.num_hidden_layers for shape in shapes] == [1, 2]
    assert len(left_out) == 1
    assert "mobilebert" in left_out[0]
