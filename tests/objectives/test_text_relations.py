"""Relations inside a text and between layers: which tokens take part, what is refused, and values by loops."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.regions import members, moments, widened, windows
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape

EVERY = ("fsp", "svd_kd", "mhgd", "mhgd_estimator", "pairwise_kd", "region_affinity")
BETWEEN_LAYERS = EVERY[:4]
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 0]])
SPECIAL = torch.tensor([[1, 0, 0, 0, 0, 1], [1, 1, 0, 0, 1, 1], [1, 0, 0, 1, 1, 1]])
LAYERS = (0, 1, 2)


def bound(
    name: str, *, widths: tuple[int, int] = (4, 4), task: str = "single_label", num_logits: int = 5, **settings: Any
) -> Objective:
    torch.manual_seed(3)
    objective = objectives.make(name, settings)
    objective.bind(Pair.from_shapes(*(shape(2, width, num_logits=num_logits) for width in widths), TASKS[task]))
    return objective.double()


def states(seed: int, width: int = 4, length: int = MASK.shape[1]) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {i: torch.randn(3, length, width, generator=generator, dtype=torch.float64) for i in LAYERS}


def evaluated(
    objective: Objective,
    student: dict[int, Tensor],
    teacher: dict[int, Tensor],
    mask: Tensor = MASK,
    **columns: Tensor,
) -> tuple[Tensor, int]:
    """The sum, and what it counts."""
    batch = {"input_ids": torch.zeros_like(mask), "attention_mask": mask, **columns}
    value = objective(Activations(mask=mask, hidden=student), Activations(mask=mask, hidden=teacher), batch)
    return value, int(objective.count(batch, objective.pair.task))


def said(objective: Objective) -> str:
    return " ".join(objective.remarks())


# ---- which tokens take part ----


@pytest.mark.parametrize("name", EVERY)
def test_special_tokens_are_left_out_like_padding(name: str) -> None:
    settings = {"window": 1, "moments": [1]} if name == "region_affinity" else {}
    sides = states(0), states(1)
    inner = MASK * (1 - SPECIAL)
    found = evaluated(bound(name, special_tokens="exclude", **settings), *sides, special_tokens_mask=SPECIAL)
    expected = evaluated(bound(name, **settings), *sides, inner)
    whole = evaluated(bound(name, **settings), *sides)
    assert float(found[0].detach()) == pytest.approx(float(expected[0].detach()), rel=1e-10)
    assert found[1] == expected[1]
    assert float(found[0].detach()) != pytest.approx(float(whole[0].detach()), rel=1e-3)


@pytest.mark.parametrize("name", EVERY)
def test_special_tokens_that_are_not_told_are_an_error(name: str) -> None:
    objective = bound(name, special_tokens="exclude")
    assert objective.columns == {"special_tokens_mask"}
    assert not bound(name).columns
    with pytest.raises(DataError, match=rf"{name}: .*special_tokens_mask is missing; it must be \(3, 6\)"):
        evaluated(objective, states(0), states(1))
    with pytest.raises(DataError, match=r"has the shape \(3, 5\); it must be \(3, 6\)"):
        evaluated(objective, states(0), states(1), special_tokens_mask=SPECIAL[:, :5])


@pytest.mark.parametrize("name", EVERY)
def test_settings_that_do_not_fit(name: str) -> None:
    for settings, words in (
        ({"special_tokens": "drop"}, "special_tokens is 'drop'"),
        ({"special_tokens": "exclude", "stack": "decoder"}, "about the text that the encoder reads"),
    ):
        with pytest.raises(DistillationError, match=rf"{name}: .*{words}"):
            objectives.make(name, settings)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "mhgd_estimator"])
def test_other_positions_are_refused(name: str) -> None:
    with pytest.raises(IncompatiblePair, match=r"3 texts of 6 positions, the teacher 3 of 5.*the same tokens"):
        evaluated(bound(name), states(0), states(1, length=5))


# ---- layers ----


@pytest.mark.parametrize("name", BETWEEN_LAYERS)
def test_one_layer_relates_to_nothing(name: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: layer_map 'final' gives the one pair \(2, 2\)"):
        bound(name, layer_map="final")


@pytest.mark.parametrize("name", BETWEEN_LAYERS)
def test_a_layer_that_follows_itself_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bound(name, layer_map=[[1, 1], [1, 2]])
    assert f"{name}: student layer 1 is related to itself" in caplog.text
    assert "teacher layer" not in caplog.text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fsp", "set projection='per_layer'"),
        ("svd_kd", "set side='left'"),
        ("mhgd", "the same heads"),
        ("mhgd_estimator", "the same heads"),
    ],
)
def test_other_widths_are_refused(name: str, words: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: .* 4 wide, the teacher's 6, and .*{words}"):
        bound(name, widths=(4, 6))


@pytest.mark.parametrize("name", ["pairwise_kd", "region_affinity", "svd_kd"])
def test_other_widths_are_taken(name: str) -> None:
    settings = {"side": "left"} if name == "svd_kd" else {}
    value, _ = evaluated(bound(name, widths=(4, 6), **settings), states(0), states(1, width=6))
    assert torch.isfinite(value)
    assert value > 0


# ---- flow between layers ----


@pytest.mark.parametrize("projection", ["shared", "per_layer"])
def test_flow_of_projected_states(projection: str) -> None:
    """By loops over real tokens; the bias of a projection must not fill the padding."""
    objective = bound("fsp", widths=(4, 6), projection=projection)
    maps = list(objective.projections) * (3 if projection == "shared" else 1)
    assert len(objective.projections) == (1 if projection == "shared" else 3)
    with torch.no_grad():
        for linear in objective.projections:
            linear.bias.fill_(0.7)
    student, teacher = states(0), states(1, width=6)
    expected = 0.0
    for example, mask in enumerate(MASK.bool()):
        for i in (0, 1):
            x, y = (student[j][example, mask] @ maps[j].weight.T + maps[j].bias for j in (i, i + 1))
            ours = sum(torch.outer(a, b) for a, b in zip(x, y, strict=True))
            theirs = sum(
                torch.outer(a, b)
                for a, b in zip(teacher[i][example, mask], teacher[i + 1][example, mask], strict=True)
            )
            expected += float((((ours - theirs) / int(mask.sum())) ** 2).sum().detach())
    value, count = evaluated(objective, student, teacher)
    assert float(value.detach()) == pytest.approx(expected, rel=1e-12)
    assert count == 3


def test_equal_widths_need_no_projection() -> None:
    assert not list(bound("fsp", projection="shared").parameters())


def test_an_example_without_text_counts_nothing() -> None:
    mask = MASK.clone()
    mask[2] = 0
    for name in ("fsp", "pairwise_kd", "svd_kd"):
        found, count = evaluated(bound(name), states(0), states(1), mask)
        both, _ = evaluated(bound(name), *({i: x[:2] for i, x in s.items()} for s in (states(0), states(1))), mask[:2])
        assert count == 2
        assert float(found) == pytest.approx(float(both), rel=1e-12)


# ---- pairs of tokens ----


def cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b) / (a.norm() * b.norm()))


@pytest.mark.parametrize("span", [1, 2, 4])
@pytest.mark.parametrize("reach", [None, 1, 3])
def test_pairs_of_nodes_by_loops(span: int, reach: int | None) -> None:
    student, teacher = states(0)[2], states(1)[2]
    expected = 0.0
    for example, mask in enumerate(MASK.bool()):
        nodes = [
            [torch.stack(part).mean(0) for part in chunks(list(side[example, mask]), span)]
            for side in (student, teacher)
        ]
        number = len(nodes[0])
        pairs = [(p, q) for p in range(number) for q in range(number) if reach is None or abs(p - q) <= reach]
        squares = [(cosine(nodes[0][p], nodes[0][q]) - cosine(nodes[1][p], nodes[1][q])) ** 2 for p, q in pairs]
        expected += sum(squares) / len(pairs)
    found, count = evaluated(bound("pairwise_kd", span=span, reach=reach), states(0), states(1))
    assert float(found) == pytest.approx(expected, rel=1e-10, abs=1e-15)
    assert count == 3


def chunks(items: list[Tensor], size: int) -> list[list[Tensor]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def test_layers_are_added() -> None:
    values = [
        float(evaluated(bound("pairwise_kd", layer_map=pairs), states(0), states(1))[0])
        for pairs in ([[1, 1]], [[2, 2]], [[1, 1], [2, 2]])
    ]
    assert values[2] == pytest.approx(values[0] + values[1], rel=1e-12)


def test_constant_norms_change_the_gradient_alone() -> None:
    found = {}
    for form in ("paper", "code"):
        leaves = {2: states(0)[2].requires_grad_()}
        value, _ = evaluated(bound("pairwise_kd", form=form), leaves, states(1))
        value.backward()
        gradient = leaves[2].grad
        assert gradient is not None
        along = (gradient * states(0)[2]).sum(-1).abs().amax()
        found[form] = (float(value.detach()), float(along))
    assert found["paper"][0] == pytest.approx(found["code"][0], rel=1e-12)
    assert found["paper"][1] < 1e-12  # the length of a state does not matter
    assert found["code"][1] > 1e-3


@pytest.mark.parametrize("form", ["paper", "code"])
def test_a_state_of_zeros_has_no_direction(form: str) -> None:
    leaf = states(0)[2]
    leaf[0, 2] = 0.0
    value, _ = evaluated(bound("pairwise_kd", form=form), {2: leaf.requires_grad_()}, states(1))
    value.backward()
    assert leaf.grad is not None
    assert torch.isfinite(leaf.grad).all()
    assert not leaf.grad[0, 2].any()


@pytest.mark.parametrize(("settings", "count"), [({}, 1), ({"span": 3}, 3)])
def test_one_node_has_no_pairs(settings: dict[str, int], count: int) -> None:
    mask = torch.zeros_like(MASK)
    mask[:, 1 : 1 + count] = 1
    assert evaluated(bound("pairwise_kd", **settings), states(0), states(1), mask)[0] == pytest.approx(0.0, abs=1e-20)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("pairwise_kd", {"span": 0}, "span is 0; it must be a whole number from 1 on"),
        ("pairwise_kd", {"span": None}, "span is None"),
        ("pairwise_kd", {"reach": True}, "reach is True"),
        ("pairwise_kd", {"reach": 1.5}, "reach is 1.5"),
        ("pairwise_kd", {"form": "sum"}, "form is 'sum'"),
        ("fsp", {"form": "sum"}, "form is 'sum'"),
        ("fsp", {"projection": "linear"}, "projection is 'linear'"),
        ("region_affinity", {"regions": "window"}, "regions is 'window' .did you mean 'windows'"),
        ("region_affinity", {"window": 0}, "window is 0"),
        ("region_affinity", {"widen": -1}, "widen is -1; it must be a whole number from 0 on"),
        ("region_affinity", {"moments": []}, r"moments is \[\]"),
        ("region_affinity", {"moments": [1, 4]}, r"moments is \[1, 4\]"),
        ("region_affinity", {"moments": [2, 2]}, "each once"),
        ("region_affinity", {"moments": 1.0}, "moments is 1.0"),
        ("region_affinity", {"moments": "12"}, "moments is '12'"),
        ("svd_kd", {"k": 0}, "k is 0"),
        ("svd_kd", {"extra": -1}, "extra is -1"),
        ("svd_kd", {"width": 0}, "width is 0; it must be a number above 0"),
        ("svd_kd", {"side": "both"}, "side is 'both'"),
        ("svd_kd", {"center": "yes"}, "center is 'yes'"),
        ("mhgd", {"heads": 0}, "heads is 0"),
        ("mhgd", {"vector": "max"}, "vector is 'max'"),
        ("mhgd", {"form": "paper"}, "form is 'paper'"),
        ("mhgd_estimator", {"gather": 1}, "gather is 1"),
    ],
)
def test_bad_settings(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=f"{name}: .*{words}"):
        objectives.make(name, settings)


# ---- regions ----


def test_windows_are_counted_over_real_tokens() -> None:
    assert windows(MASK.bool(), 2).tolist() == [[0, 0, 1, 1, 2, 2], [-1, 0, 0, 1, 1, -1], [0, 0, 1, -1, -1, -1]]


def test_regions_take_in_their_neighbours() -> None:
    regions = torch.tensor([[-1, 0, -1, -1, 1, -1, -1]])
    real = torch.tensor([[1, 1, 1, 1, 1, 1, 0]]).bool()
    assert widened(regions, real, 0).tolist() == regions.tolist()
    assert widened(regions, real, 1).tolist() == [[0, 0, 0, 1, 1, 1, -1]]
    assert widened(torch.tensor([[0, -1, 1]]), real[:, :3], 1).tolist() == [[0, 0, 1]]


def test_moments_by_loops() -> None:
    regions = torch.tensor([[0, 1, 0, -1, 0, 1]])
    x = states(0)[1][:1]
    found = moments(x, members(regions, 3))
    for region, rows in enumerate(([0, 2, 4], [1, 5])):
        for feature in range(4):
            values = [float(x[0, row, feature]) for row in rows]
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / len(values)
            third = sum((v - mean) ** 3 for v in values) / len(values)
            got = [float(each[0, region, feature]) for each in found]
            assert got == pytest.approx([mean, variance, third / math.sqrt(variance) ** 3], rel=1e-10, abs=1e-12)
    assert not any(each[0, 2].any() for each in found)


def test_flat_features_have_no_skewness() -> None:
    x = torch.ones(1, 4, 2, dtype=torch.float64)
    x[0, :, 1] += torch.tensor([0.0, 1e-7, -1e-7, 3e-7])
    x.requires_grad_()
    found = moments(x, members(torch.zeros(1, 4, dtype=torch.long), 1))
    assert not found.skewness.any()
    found.skewness.sum().backward()
    assert x.grad is not None
    assert not x.grad.any()


def test_affinities_of_windows_by_loops() -> None:
    """Three windows of three tokens, so that all three moments take part; a text of one window has none."""
    length, mask = 9, torch.tensor([[1] * 9, [0] * 6 + [1] * 3])
    sides = [{2: states(seed, length=length)[2][:2]} for seed in (0, 1)]
    parts = [[side[2][0, at : at + 3] for at in (0, 3, 6)] for side in sides]

    def order(rows: Tensor, moment: int) -> Tensor:
        centred = rows - rows.mean(0)
        variance = (centred**2).mean(0)
        return (rows.mean(0), variance, (centred**3).mean(0) / variance**1.5)[moment - 1]

    for chosen in ([1], [3], [1, 2, 3]):
        squares = [
            (
                cosine(order(parts[0][p], m), order(parts[0][q], m))
                - cosine(order(parts[1][p], m), order(parts[1][q], m))
            )
            ** 2
            for m in chosen
            for p in range(3)
            for q in range(3)
            if p != q
        ]
        objective = bound("region_affinity", window=3, moments=chosen)
        value, count = evaluated(objective, *sides, mask)
        assert float(value) == pytest.approx(sum(squares) / len(squares), rel=1e-10)
        assert count == 1
        assert said(objective) == ""


def test_regions_of_a_column() -> None:
    sides = states(0), states(1)
    segments = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0]])
    of_segments = bound("region_affinity", regions="token_type_ids", moments=[1])
    assert of_segments.columns == {"token_type_ids"}
    found, count = evaluated(of_segments, *sides, token_type_ids=segments)
    assert count == 2  # the third text is one sentence
    labels = segments.masked_fill(MASK == 0, IGNORED)
    of_labels = bound("region_affinity", regions="labels", moments=[1], task="token_classification", num_logits=2)
    assert float(evaluated(of_labels, *sides, labels=labels)[0]) == pytest.approx(float(found), rel=1e-12)
    labels[0, 1:3] = IGNORED
    fewer = evaluated(of_labels, *sides, labels=labels)[0]
    assert float(fewer) != pytest.approx(float(found), rel=1e-3)
    wide = bound("region_affinity", regions="labels", moments=[1], widen=2, task="token_classification", num_logits=2)
    again = evaluated(wide, *sides, labels=labels)[0]
    labels[0, 1:3] = torch.tensor([0, 1])  # from either side, the earlier first
    assert float(again) == pytest.approx(float(evaluated(of_labels, *sides, labels=labels)[0]), rel=1e-12)


def test_no_regions_to_compare() -> None:
    objective = bound("region_affinity", window=6)
    leaf = {2: states(0)[2].requires_grad_()}
    value, count = evaluated(objective, leaf, states(1))
    value.backward()
    assert (float(value.detach()), count) == (0.0, 0)
    assert leaf[2].grad is not None
    assert not leaf[2].grad.any()
    assert "no text of a batch had two regions" in said(objective)
    evaluated(objective, leaf, states(1))
    assert said(objective) == ""  # once


def test_a_region_too_small_for_a_moment() -> None:
    """Two windows of two tokens have a variance and no skewness."""
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 3)
    sides = states(0), states(1)
    assert evaluated(bound("region_affinity", window=2, moments=[3]), *sides, mask)[1] == 0
    both = bound("region_affinity", window=2, moments=[2, 3])
    alone = bound("region_affinity", window=2, moments=[2])
    assert float(evaluated(both, *sides, mask)[0]) == float(evaluated(alone, *sides, mask)[0]) > 0


def test_columns_that_regions_need() -> None:
    with pytest.raises(IncompatiblePair, match="labels of single_label are none of tokens"):
        bound("region_affinity", regions="labels")
    with pytest.raises(DataError, match=r"token_type_ids tells the regions, and it is missing; it must be \(3, 6\)"):
        evaluated(bound("region_affinity", regions="token_type_ids"), states(0), states(1))
