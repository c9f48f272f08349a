"""Objectives over hidden states: values by hand, what they learn, and what they refuse."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill import objectives
from hf_distill.activations import Activations, Signal
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.losses import safe_sqrt, unit
from hf_distill.objectives import Objective, Pair
from hf_distill.objectives.feature.fine_grained_imitation import chosen_tokens, widened
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
REGRESSED = ("fitnets_hint", "fine_grained_imitation")
FEATURES = (
    "attention_transfer", "dmkd", "fine_grained_imitation", "fitnets_hint", "knowledge_preregression", "nst", "ted",
    "vid",
)  # fmt: skip


def bound(
    name: str, widths: tuple[int, int] = (4, 4), depths: tuple[int, int] = (2, 2), task: str = "single_label",
    num_logits: int = 3, causal: bool = False, **settings: Any,
) -> Any:  # fmt: skip
    """The objective in float64, bound to models of these widths and depths."""
    torch.manual_seed(0)
    objective = objectives.make(name, settings)
    sides = [shape(depth, width, num_logits, causal=causal) for depth, width in zip(depths, widths, strict=True)]
    objective.bind(Pair.from_shapes(sides[0], sides[1], TASKS[task]))
    return objective.double()


def batch_of(mask: Tensor = MASK, **columns: Tensor) -> dict[str, Tensor]:
    return {"input_ids": torch.zeros_like(mask), "attention_mask": mask, **columns}


def states(layers: list[int], width: int = 4, seed: int = 0, mask: Tensor = MASK) -> Activations:
    torch.manual_seed(seed)
    made = {layer: torch.randn(*mask.shape, width, dtype=torch.float64) for layer in layers}
    return Activations(mask=mask, hidden=made)


def value(objective: Objective, student: Activations, teacher: Activations, **columns: Tensor) -> float:
    mask = student.mask
    assert mask is not None
    batch = batch_of(mask, **columns)
    loss = objective(student, teacher, batch)
    assert isinstance(loss, Tensor)
    return float(loss.detach()) / max(int(objective.count(batch, objective.pair.task)), 1)


# ---- hints ----


def test_the_paper_sums_a_text_and_the_code_takes_a_mean() -> None:
    student, teacher = states([1]), states([1], seed=1)
    squares = [(student.hidden[1][i, k] - teacher.hidden[1][i, k]).square() for i in (0, 1) for k in range(3 - i)]
    total = float(torch.stack(squares).sum())
    assert value(bound("fitnets_hint"), student, teacher) == pytest.approx(total / 2 / 2, rel=1e-12)
    assert value(bound("fitnets_hint", form="code"), student, teacher) == pytest.approx(total / 5 / 4, rel=1e-12)


def test_a_window_reads_both_neighbours_and_zeros_beyond_the_text() -> None:
    objective = bound("fitnets_hint", (4, 6), regressor="conv1d", form="code")
    student, teacher = states([1]), states([1], 6, seed=1)
    weight, bias = objective.projections[0].weight, objective.projections[0].bias
    total = 0.0
    for i, length in enumerate((3, 2)):
        for k in range(length):
            made = bias.clone()
            for tap, place in enumerate((k - 1, k, k + 1)):
                if 0 <= place < length:
                    made = made + weight[:, :, tap] @ student.hidden[1][i, place]
            total += float((made - teacher.hidden[1][i, k]).square().mean().detach())
    assert value(objective, student, teacher) == pytest.approx(total / 5, rel=1e-12)


@pytest.mark.parametrize("name", REGRESSED)
def test_refuses_other_widths_without_a_regressor(name: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: .* 4 wide, the teacher's 6; set regressor='linear'"):
        bound(name, (4, 6), regressor="none")


def test_warns_of_a_guided_layer_far_above_its_hint(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bound("fitnets_hint", depths=(4, 4), layer_map=[[2, 2]])
        bound("fitnets_hint", depths=(3, 12))
        assert not caplog.records
        bound("fitnets_hint", depths=(4, 4), layer_map=[[4, 1]])
    assert "layer 4 of the student's 4 is guided by layer 1" in caplog.text


@pytest.mark.parametrize("name", FEATURES)
def test_settings_are_checked_where_they_enter(name: str) -> None:
    with pytest.raises(DistillationError, match=rf"{name}: layer_map is 'spred' .did you mean 'spread'"):
        objectives.make(name, {"layer_map": "spred"})
    with pytest.raises(DistillationError, match=rf"{name}: stack is 'both'"):
        objectives.make(name, {"stack": "both"})


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fitnets_hint", {"form": "mean"}, "form is 'mean'; it may be paper, code"),
        ("fitnets_hint", {"regressor": "mlp"}, "regressor is 'mlp'"),
        ("attention_transfer", {"p": 0.5}, "p is 0.5; it must be a number at least 1 and at most 8"),
        ("attention_transfer", {"kind": "mean_p"}, "kind is 'mean_p'"),
        ("nst", {"kernel": "rbf"}, "kernel is 'rbf'"),
        ("nst", {"degree": 2.5}, "degree is 2.5; it must be a whole number"),
        ("nst", {"sigma2": 0.0}, "sigma2 is 0.0; it must be a number above 0"),
        ("vid", {"mean": "wide"}, "mean is 'wide'; it may be deep, linear"),
        ("dmkd", {"ratio": 1.5}, "ratio is 1.5"),
        ("dmkd", {"guide": "teacher"}, "guide is 'teacher'"),
        ("fine_grained_imitation", {"psi": -0.1}, "psi is -0.1"),
        ("fine_grained_imitation", {"near": 1.5}, "near is 1.5; it must be a whole number from 0 on"),
        ("knowledge_preregression", {"temperature": 0.0}, "temperature is 0.0; it must be a number above 0"),
        ("knowledge_preregression", {"pool": "max"}, "pool is 'max'"),
        ("delta", {"importance": "measured"}, "importance is 'measured'"),
        ("delta", {"importance_batches": 0}, "importance_batches is 0"),
        ("ted", {"width": 0}, "width is 0; it must be a whole number from 1 on"),
        ("layer_combination", {"layer_map": "spread"}, "layer_map is 'spread'; it may be all, regular, overlapping"),
        ("attention_layer_map", {"pool": "max"}, "pool is 'max'"),
        ("attention_layer_map", {"scaled": 1}, "scaled is 1; it may be true or false"),
    ],
)
def test_refuses_settings(name: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(DistillationError, match=words):
        objectives.make(name, settings)


# ---- attention transfer ----


def test_maps_do_not_see_the_size_of_the_states() -> None:
    student, teacher = states([1]), states([1], seed=1)
    larger = Activations(mask=MASK, hidden={1: student.hidden[1] * 1e150})
    objective = bound("attention_transfer", layer_map=[[1, 1]], p=4.0)
    assert value(objective, larger, teacher) == pytest.approx(value(objective, student, teacher), rel=1e-12)


def test_a_text_of_one_token_has_one_map() -> None:
    mask = torch.ones(2, 1, dtype=torch.long)
    sides = [states([1], seed=seed, mask=mask) for seed in (0, 1)]
    assert value(bound("attention_transfer", layer_map=[[1, 1]]), *sides) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("name", ["attention_transfer", "nst"])
def test_special_tokens_leave_the_map(name: str) -> None:
    """As if the text were without them."""
    special = torch.tensor([[1, 0, 0, 0], [1, 0, 0, 0]])
    sides = [states([1], seed=seed) for seed in (0, 1)]
    without = [Activations(mask=MASK[:, 1:], hidden={1: side.hidden[1][:, 1:]}) for side in sides]
    found = value(
        bound(name, layer_map=[[1, 1]], special_tokens="exclude"), sides[0], sides[1], special_tokens_mask=special
    )
    assert found == pytest.approx(value(bound(name, layer_map=[[1, 1]]), *without), rel=1e-12)
    with pytest.raises(DataError, match="special_tokens_mask is missing"):
        value(bound(name, layer_map=[[1, 1]], special_tokens="exclude"), *sides)


# ---- neuron selectivity ----


@pytest.mark.parametrize(
    ("settings", "kernel"),
    [
        ({}, lambda x, y: float(x @ y) ** 2),
        ({"kernel": "linear"}, lambda x, y: float(x @ y)),
        ({"kernel": "poly", "degree": 3, "c": 0.5}, lambda x, y: (float(x @ y) + 0.5) ** 3),
        ({"kernel": "gaussian", "sigma2": 0.7}, lambda x, y: math.exp(-float((x - y) @ (x - y)) / 1.4)),
    ],
)
def test_discrepancy_of_patterns_by_loops(settings: dict[str, Any], kernel: Any) -> None:
    student, teacher = states([2], 3), states([2], 5, seed=1)
    total = 0.0
    for i, length in enumerate((3, 2)):
        ours, theirs = ([c / c.norm() for c in side.hidden[2][i, :length].T] for side in (student, teacher))
        for sign, first, second in ((1, ours, ours), (1, theirs, theirs), (-2, ours, theirs)):
            total += sign * sum(kernel(x, y) for x in first for y in second) / len(first) / len(second)
    assert value(bound("nst", (3, 5), **settings), student, teacher) == pytest.approx(total / 2, rel=1e-9)


# ---- variational information ----


def test_a_variance_at_its_floor_is_remarked() -> None:
    objective = bound("vid")
    sides = [states([1, 2], seed=seed) for seed in (0, 1)]
    objective.train()
    value(objective, *sides)
    assert objective.remarks() == []
    with torch.no_grad():
        objective.laws[1].raw_variance[2] = -30.0
    value(objective, *sides)
    assert [text for text in objective.remarks() if "at its floor of 1e-05" in text]


def test_the_variance_starts_at_five() -> None:
    objective = bound("vid", layer_map=[[1, 1]], form="code", mean="linear")
    mean = objective.laws[0].means[0]
    teacher = states([1])
    with torch.no_grad():
        mean.weight.zero_()
        mean.bias.zero_()
    real = torch.cat([teacher.hidden[1][0, :3], teacher.hidden[1][1, :2]])
    expected = 0.5 * (float(real.square().mean()) / 5.0 + math.log(5.0))
    assert value(objective, states([1], seed=1), teacher) == pytest.approx(expected, rel=1e-6)


def test_the_last_of_three_maps_has_no_bias() -> None:
    """As the paper's last convolution; a single map has one."""
    torch.manual_seed(3)
    objective = bound("vid", (3, 4), layer_map=[[1, 1]], form="code")
    first, second, last = objective.laws[0].means
    assert [name for name, _ in objective.named_parameters() if name.endswith("bias")] == [
        "laws.0.means.0.bias",
        "laws.0.means.1.bias",
    ]
    with torch.no_grad():
        for layer in (first, second):
            layer.bias.normal_()
    student, teacher = states([1], 3), states([1], seed=1)
    rows = [(i, k) for i, length in enumerate((3, 2)) for k in range(length)]
    total = 0.0
    for i, k in rows:
        made = (first.weight @ student.hidden[1][i, k] + first.bias).relu()
        made = last.weight @ (second.weight @ made + second.bias).relu()
        total += float((made - teacher.hidden[1][i, k]).square().mean().detach())
    expected = 0.5 * (total / len(rows) / 5.0 + math.log(5.0))
    assert value(objective, student, teacher) == pytest.approx(expected, rel=1e-6)


# ---- dual masking ----


def test_the_largest_tokens_and_features_are_hidden() -> None:
    objective = bound("dmkd", ratio=0.5)
    target = torch.tensor([[[1.0, 9.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0], [0.0, 1.0, 0.0, 0.0], [0.0] * 4]])
    mask = torch.tensor([[True, True, True, False]])
    tokens, features = objective.kept(target, mask)
    assert tokens.tolist() == [[True, False, True, False]]
    assert features.tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("guide", ["attention", "random"])
def test_one_token_and_one_feature_are_always_kept(guide: str) -> None:
    objective = bound("dmkd", ratio=1.0, guide=guide)
    mask = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])
    tokens, features = objective.kept(torch.randn(3, 3, 4), mask)
    assert tokens.sum(1).tolist() == [1, 1, 0]
    assert features.sum(1).tolist() == [1, 1, 1]
    assert not (tokens & ~mask).any()


def test_random_masks_are_drawn_anew() -> None:
    objective = bound("dmkd", guide="random", ratio=0.5)
    mask = torch.ones(4, 16, dtype=torch.bool)
    first, second = (objective.kept(torch.zeros(4, 16, 4), mask)[0] for _ in range(2))
    assert first.sum(1).tolist() == [8] * 4
    assert not torch.equal(first, second)


# ---- fine-grained imitation ----


def test_labels_choose_spans_and_their_neighbours() -> None:
    labels = torch.tensor([[IGNORED, 0, 2, IGNORED], [1, 0, 0, 0]])
    settings: dict[str, Any] = {"select": "label", "task": "token_classification"}
    student, teacher = states([2]), states([2], seed=1)
    errors = (student.hidden[2] - teacher.hidden[2]).square().sum(-1) / 2
    found = value(bound("fine_grained_imitation", **settings), student, teacher, labels=labels)
    assert found == pytest.approx(float(errors[0, 2] + errors[1, 0]) / 2, rel=1e-12)
    found = value(bound("fine_grained_imitation", near=1, **settings), student, teacher, labels=labels)
    assert found == pytest.approx(float(errors[0, 1:3].sum() + errors[1, :2].sum()) / 4, rel=1e-12)


@pytest.mark.parametrize("near", [0, 1, 2, 9])
def test_spans_are_widened_on_both_sides(near: int) -> None:
    inside = torch.tensor([[False, False, True, False, False], [True, False, False, False, False]])
    expected = [[any(row[max(k - near, 0) : k + near + 1]) for k in range(5)] for row in inside.tolist()]
    assert widened(inside, near).tolist() == expected


def test_no_chosen_token_is_a_zero_with_a_graph() -> None:
    objective = bound("fine_grained_imitation", select="label", task="token_classification")
    student, teacher = states([2]), states([2], seed=1)
    leaf = student.hidden[2].requires_grad_()
    loss = objective(student, teacher, batch_of(labels=torch.zeros(2, 4, dtype=torch.long)))
    loss.backward()
    assert loss == 0
    assert leaf.grad is not None
    assert not leaf.grad.any()


def test_attention_in_the_teacher_chooses_tokens() -> None:
    """By loops: softmax over real keys, the mean over heads and real queries, at least half of the largest."""
    objective = bound("fine_grained_imitation", psi=0.9)
    student, teacher = states([2]), states([2], seed=1)
    torch.manual_seed(2)
    scores = 3.0 * torch.randn(2, 2, 4, 4, dtype=torch.float64)
    teacher.tensors["scores"] = {2: scores}
    total = number = 0.0
    for i, length in enumerate((3, 2)):
        received = [
            sum(float(scores[i, h, q, :length].softmax(0)[k]) for h in (0, 1) for q in range(length)) / 2 / length
            for k in range(length)
        ]
        for k in range(length):
            if received[k] >= 0.9 * max(received):
                total += float((student.hidden[2][i, k] - teacher.hidden[2][i, k]).square().sum()) / 2
                number += 1
    assert 0 < number < 5
    assert value(objective, student, teacher) == pytest.approx(total / number, rel=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_documents_of_a_packed_row_choose_apart(causal: bool) -> None:
    """Three tokens and two, in one row or in two."""
    objective = bound("fine_grained_imitation", psi=0.9, causal=causal)
    packed = [states([2], seed=seed, mask=torch.ones(1, 5, dtype=torch.long)) for seed in (0, 1)]
    scores = 3.0 * torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    packed[1].tensors["scores"] = {2: scores}
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    apart = [Activations(mask=mask, hidden={2: torch.zeros(2, 3, 4, dtype=torch.float64)}) for _ in range(2)]
    of_each = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    for i, place in enumerate((slice(0, 3), slice(3, 5))):
        length = place.stop - place.start
        of_each[i, :, :length, :length] = scores[0, :, place, place]
        for one, other in zip(packed, apart, strict=True):
            other.hidden[2][i, :length] = one.hidden[2][0, place]
    apart[1].tensors["scores"] = {2: of_each}
    found = value(objective, *packed, position_ids=torch.tensor([[0, 1, 2, 0, 1]]))
    assert found == pytest.approx(value(objective, *apart), rel=1e-12)


def test_a_text_without_tokens_has_none_chosen() -> None:
    assert not chosen_tokens(torch.ones(1, 2), torch.zeros(1, 2), 0.5).any()


def test_refuses_labels_that_are_no_spans() -> None:
    with pytest.raises(IncompatiblePair, match="select is 'label' and the task is single_label"):
        bound("fine_grained_imitation", select="label")
    with pytest.raises(IncompatiblePair, match="pairs teacher layer 0, the embedding output, which has no attention"):
        bound("fine_grained_imitation", layer_map=[[0, 0]])


# ---- pre-regression ----


@pytest.mark.parametrize("name", ["knowledge_preregression", "knowledge_preregression_heads"])
@pytest.mark.parametrize(
    ("task", "num_logits"), [("regression", 1), ("multi_label", 3), ("single_label", 1), ("question_answering", 2)]
)
def test_refuses_a_softmax_that_says_nothing(name: str, task: str, num_logits: int) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: a {task} task of {num_logits} outputs has no softmax"):
        bound(name, task=task, num_logits=num_logits)


def test_heads_need_labels() -> None:
    objective = bound("knowledge_preregression_heads")
    with pytest.raises(DataError, match="'labels'"):
        objective(states([]), states([1]), batch_of())


def test_heads_that_were_not_trained_are_remarked() -> None:
    objective = bound("knowledge_preregression")
    objective.train()
    value(objective, states([1]), states([1], seed=1))
    assert [text for text in objective.remarks() if "learned nothing" in text]
    heads = bound("knowledge_preregression_heads")
    before = {key: tensor for key, tensor in heads.state_dict().items() if key.startswith(objective.takes)}
    given = bound("knowledge_preregression")
    given.load_state_dict({**given.state_dict(), **before})
    given.train()
    value(given, states([1]), states([1], seed=1))
    assert given.remarks() == []
    assert torch.equal(given.teacher_heads[0].weight, heads.teacher_heads[0].weight)


def test_the_heads_learn_the_labels_of_pooled_states() -> None:
    objective, teacher = bound("knowledge_preregression_heads"), states([1])
    labels = torch.tensor([2, 0])
    head, total = objective.teacher_heads[0], 0.0
    for i, length in enumerate((3, 2)):
        logits = head.weight @ teacher.hidden[1][i, :length].mean(0) + head.bias
        total -= float(logits.log_softmax(0)[labels[i]].detach())
    assert value(objective, states([]), teacher, labels=labels) == pytest.approx(total / 2, rel=1e-12)
    assert objective.needs().student == frozenset()
    assert objective.needs().teacher == {Signal("hidden", 1)}


# ---- staying near the start ----


def test_refuses_another_start() -> None:
    with pytest.raises(IncompatiblePair, match="delta: there is no starting point to stay near"):
        objectives.make("delta", {}).bind(Pair.from_shapes(shape(), None, TASKS["single_label"]))
    with pytest.raises(IncompatiblePair, match=r"4 wide, the teacher's 6, .*the student's own starting point"):
        bound("delta", (4, 6))
    with pytest.raises(IncompatiblePair, match=r"delta: .*the student has 2 layers, the teacher 4"):
        bound("delta", depths=(2, 4))


def test_the_start_is_at_zero() -> None:
    start = states([1, 2])
    assert value(bound("delta"), start, start) == 0.0


def test_rises_become_weights() -> None:
    objective = bound("delta", importance="gradient", importance_batches=3, form="code")
    asked = objective.asks
    assert (asked.layers, asked.how, asked.batches) == ((1, 2), "gradient", 3)
    objective.take_rises(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]]))
    weights = objective.feature_weights
    torch.testing.assert_close(weights.sum(1), torch.ones(2, dtype=torch.float64))
    assert weights[0].tolist() == [0.25] * 4
    assert weights[1].tolist() == sorted(weights[1].tolist())
    assert bound("delta").asks.how == "gradient", "the attention is what makes it DELTA"
    assert bound("delta", importance="uniform").asks is None


# ---- groups of layers ----


@pytest.mark.parametrize(
    ("layer_map", "depths", "groups"),
    [
        ("regular", (2, 4), {1: [1, 2], 2: [3, 4]}),
        ("regular", (2, 5), {1: [1, 2], 2: [3, 4, 5]}),
        ("overlapping", (2, 4), {1: [1, 2], 2: [2, 3, 4]}),
        ("all", (2, 3), {1: [1, 2, 3], 2: [1, 2, 3]}),
        ([[1, 2], [1, 4], [2, 3]], (2, 4), {1: [2, 4], 2: [3]}),
    ],
)
def test_groups(layer_map: Any, depths: tuple[int, int], groups: dict[int, list[int]]) -> None:
    objective = bound("layer_combination", depths=depths, layer_map=layer_map)
    assert objective.groups == groups
    assert [c.in_features for c in objective.combinations] == [4 * len(group) for group in groups.values()]


def test_a_combination_starts_as_the_mean_of_its_group() -> None:
    objective = bound("layer_combination", depths=(1, 2))
    student, teacher = states([1]), states([1, 2], seed=1)
    mean = (teacher.hidden[1] + teacher.hidden[2]) / 2
    errors = (student.hidden[1] - mean).square().mean(-1)
    expected = float(errors[0, :3].sum() + errors[1, :2].sum()) / 5
    assert value(objective, student, teacher) == pytest.approx(expected, rel=1e-12)


def test_refuses_a_teacher_of_too_few_layers_for_groups() -> None:
    with pytest.raises(IncompatiblePair, match=r"the teacher has 2 layers, fewer than the student's 3.*'all'"):
        bound("layer_combination", depths=(3, 2))
    assert bound("attention_layer_map", depths=(3, 2)).groups[3] == [1, 2]


def test_the_students_vector_chooses_layers() -> None:
    objective = bound("attention_layer_map", depths=(1, 2), scaled=True)
    student, teacher = states([1]), states([1, 2], seed=1)
    total = 0.0
    for i in range(2):
        ours, theirs = student.hidden[1][i, 0], [teacher.hidden[j][i, 0] for j in (1, 2)]
        products = [math.exp(float(ours @ vector) / 2.0) for vector in theirs]
        chosen = sum(product * vector for product, vector in zip(products, theirs, strict=True)) / sum(products)
        total += float((ours - chosen).square().mean())
    assert value(objective, student, teacher) == pytest.approx(total / 2, rel=1e-12)


def test_refuses_vectors_that_cannot_be_multiplied() -> None:
    with pytest.raises(IncompatiblePair, match=r"4 wide, the teacher's 6, .*layer_combination"):
        bound("attention_layer_map", (4, 6))
    with pytest.raises(IncompatiblePair, match=r"the student is causal.*pool='last_token'"):
        bound("attention_layer_map", causal=True)
    bound("attention_layer_map", causal=True, pool="last_token")


# ---- task-aware filters ----


def test_filters_go_from_one_stage_to_the_next() -> None:
    first, second = bound("ted_filters", (4, 6), width=3), bound("ted", (4, 6), width=3)
    taken = {key: tensor for key, tensor in first.state_dict().items() if key.startswith(second.takes)}
    assert taken.keys() == second.state_dict().keys()
    second.train()
    value(second, states([1, 2]), states([1, 2], 6, seed=1))
    assert [text for text in second.remarks() if "learned nothing" in text]
    assert {name.split(".")[0] for name, _ in second.named_parameters()} == {"student_filters"}


def test_filters_learn_the_labels_on_both_sides() -> None:
    objective = bound("ted_filters", (4, 6))
    sides, labels = (states([1, 2]), states([1, 2], 6, seed=1)), torch.tensor([1, 2])
    total = 0.0
    for side, filters, heads in (
        (sides[0], objective.student_filters, objective.student_heads),
        (sides[1], objective.teacher_filters, objective.teacher_heads),
    ):
        for k in (0, 1):
            logits = heads[k](filters[k](side.hidden[k + 1][:, 0]))
            total -= float(logits.log_softmax(1)[[0, 1], labels].sum().detach())
    assert value(objective, *sides, labels=labels) == pytest.approx(total / 2 / 2, rel=1e-12)


@pytest.mark.parametrize("task", ["encoder", "seq2seq_lm"])
def test_filters_need_answers_to_learn(task: str) -> None:
    torch.manual_seed(0)
    one = shape(encoder_decoder=task == "seq2seq_lm")
    stack = "encoder" if task == "seq2seq_lm" else ""
    words = "the models have no head" if task == "encoder" else "the words of a seq2seq_lm task are the decoder's"
    with pytest.raises(IncompatiblePair, match=words):
        objectives.make("ted_filters", {"stack": stack}).bind(Pair.from_shapes(one, one, TASKS[task]))


# ---- the two functions that all of these rest on ----


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_vectors_and_roots_are_smooth_at_zero(dtype: torch.dtype) -> None:
    vectors = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    found = unit(vectors)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0]], dtype=dtype))
    found.sum().backward()
    assert vectors.grad is not None
    assert vectors.grad[1].tolist() == [0.0, 0.0]
    torch.testing.assert_close(vectors.grad[0] @ vectors.detach()[0], torch.zeros((), dtype=dtype), rtol=0, atol=1e-6)
    values = torch.tensor([4.0, 0.0, -1.0], dtype=dtype, requires_grad=True)
    safe_sqrt(values).sum().backward()
    assert safe_sqrt(values).tolist() == [2.0, 0.0, 0.0]
    assert values.grad is not None
    assert values.grad.tolist() == [0.25, 0.0, 0.0]


def test_what_counts_as_no_vector_depends_on_the_precision() -> None:
    assert unit(torch.tensor([1e-7], dtype=torch.float64)).item() == 1.0
    assert unit(torch.tensor([1e-7], dtype=torch.float32)).item() == 0.0


@pytest.mark.parametrize("name", FEATURES)
def test_refuses_other_tokens(name: str) -> None:
    objective = bound(name, layer_map=[[1, 1]])
    student, teacher = states([1]), states([1], mask=MASK[:, :3])
    teacher.tensors["scores"] = {1: torch.zeros(2, 2, 3, 3, dtype=torch.float64)}
    with pytest.raises(IncompatiblePair, match=rf"{name}: .* 2 texts of 4 positions, the teacher 2 of 3.*same tokens"):
        objective(student, teacher, batch_of())


# ---- activation boundaries ----


def test_neurons_are_pushed_to_the_teachers_side() -> None:
    objective = bound("activation_boundary", layer_map=[[1, 1]], margin=0.5)
    assert not list(objective.parameters())
    torch.manual_seed(0)
    sides = [torch.randn(2, 4, 8, dtype=torch.float64) for _ in range(2)]
    total = 0.0
    for i, length in enumerate((3, 2)):
        for s, t in zip(*(side[i, :length].flatten().tolist() for side in sides), strict=True):
            wrong = s > -0.5 if t <= 0 else s <= 0.5
            total += (s + 0.5 if t <= 0 else s - 0.5) ** 2 * wrong
    shown = [Activations(mask=MASK, feedforward={1: side}) for side in sides]
    assert value(objective, *shown) == pytest.approx(total / 2, rel=1e-12)


def test_hidden_states_have_no_boundary() -> None:
    objective = bound("activation_boundary", layer_map=[[1, 1]])
    assert objective.needs().student == {Signal("feedforward", 1)}
    with pytest.raises(DistillationError, match=r"reads feedforward\[1\], which was not captured"):
        objective(states([1]).read_by(objective.name), states([1]), batch_of())
    unknown = replace(shape(), stacks={"": replace(shape().stack(), feedforward_size=0)})
    with pytest.raises(IncompatiblePair, match=r"the feed-forward part of the teacher .* is not known.*hidden_mse"):
        objectives.make("activation_boundary", {}).bind(Pair.from_shapes(shape(), unknown, TASKS["single_label"]))


# ---- factors ----


@pytest.mark.parametrize("p", [1, 2])
def test_factors_are_compared_as_one_vector_of_length_one(p: int) -> None:
    objective = bound("factor_transfer", (4, 6), p=p)
    student, teacher = states([2]), states([2], 6, seed=1)
    total = 0.0
    for i, length in enumerate((3, 2)):
        ours = objective.translators[0](student.hidden[2][i, :length]).flatten()
        theirs = objective.paraphrasers[0](teacher.hidden[2][i, :length]).flatten()
        assert len(ours) == length * 3
        total += float((ours / ours.norm() - theirs / theirs.norm()).norm(p=p).detach())
    assert value(objective, student, teacher) == pytest.approx(total / 2, rel=1e-9)


@pytest.mark.parametrize("p", [0, 3, True, 1.5, "1"])
def test_factors_have_one_of_two_norms(p: Any) -> None:
    with pytest.raises(DistillationError, match=r"factor_transfer: p is .*; it may be 1 or 2"):
        objectives.make("factor_transfer", {"p": p})


def test_a_paraphraser_makes_the_teacher_again() -> None:
    objective, teacher = bound("factor_paraphraser", (4, 6)), states([2], 6)
    made = objective.decoders[0](objective.paraphrasers[0](teacher.hidden[2])).detach()
    errors = (teacher.hidden[2] - made).abs().mean(-1)
    expected = float(errors[0, :3].sum() + errors[1, :2].sum()) / 5
    assert value(objective, states([]), teacher) == pytest.approx(expected, rel=1e-12)
    second = bound("factor_transfer", (4, 6))
    taken = {key: tensor.shape for key, tensor in objective.state_dict().items() if key.startswith(second.takes)}
    assert taken == {key: t.shape for key, t in second.state_dict().items() if key.startswith(second.takes)}


# ---- parts that a stage before learned ----


@pytest.mark.parametrize(
    ("name", "before"),
    [
        ("ted", "ted_filters"),
        ("factor_transfer", "factor_paraphraser"),
        ("knowledge_preregression", "knowledge_preregression_heads"),
    ],
)
def test_parts_are_random_until_learned_ones_are_loaded(name: str, before: str) -> None:
    """Loading alone, as a resumed training does, makes nothing learned."""
    wanted = bound(name).state_dict()
    first = {key: value for key, value in bound(before).state_dict().items() if key in wanted}
    for state, told in ((wanted, 1), (wanted | first, 0)):
        objective = bound(name)
        objective.load_state_dict(state)
        student, teacher = (states([0, 1, 2], seed=seed) for seed in (0, 1))
        objective(student, teacher, batch_of(labels=torch.tensor([0, 2])))
        assert sum("have learned nothing" in text for text in objective.remarks()) == told


# ---- label smoothing ----


@pytest.mark.parametrize("name", ["ted_filters", "knowledge_preregression_heads"])
def test_labels_of_heads_are_smoothed_as_the_arguments_ask(name: str) -> None:
    """By the definition: (1 - e) of the plain loss and e of the mean over all labels."""
    plain, smooth = bound(name), bound(name)
    smooth.bind(replace(smooth.pair, label_smoothing=0.3))
    smooth.double().load_state_dict(plain.state_dict())
    student, teacher = (states([0, 1, 2], seed=seed) for seed in (0, 1))
    at = [value(plain, student, teacher, labels=torch.tensor([0, label])) for label in (0, 1, 2)]
    first = [value(plain, student, teacher, labels=torch.tensor([label, 2])) for label in (0, 1, 2)]
    mean = sum(at) / 3 + sum(first) / 3 - at[2]  # over both texts, whose losses add up
    found = value(smooth, student, teacher, labels=torch.tensor([0, 2]))
    assert found == pytest.approx(0.7 * at[2] + 0.3 * mean, rel=1e-12)


def test_filters_refuse_to_smooth_what_is_no_class() -> None:
    objective = bound("ted_filters", task="multi_label")
    with pytest.raises(IncompatiblePair, match=r"ted_filters: label smoothing of 0.3 on a multi_label task"):
        objective.bind(replace(objective.pair, label_smoothing=0.3))


@pytest.mark.parametrize("name", ["vid", "holistic_kd"])
def test_what_falls_below_zero_is_no_term_for_a_learned_weight(name: str) -> None:
    assert bound(name).reaches_zero


def test_warns_of_texts_too_short_for_patterns() -> None:
    for mask, told in ((MASK, 1), (torch.tensor([[1, 1, 1, 0], [0, 0, 0, 0]]), 0)):
        objective = bound("nst")
        value(objective, states([2], mask=mask), states([2], seed=1, mask=mask))
        assert sum("fewer than 3 tokens" in text for text in objective.remarks()) == told
