"""Hard labels against the formulas and against torch's own losses."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Labels, Pair
from hf_distill.tasks import IGNORED, TASKS
from tests.shapes import shape


def bound(task: str, classes: int = 4, *, from_arguments: float = 0.0, **settings: Any) -> Labels:
    objective = Labels(**settings)
    objective.bind(Pair.from_shapes(shape(num_logits=classes), None, TASKS[task], label_smoothing=from_arguments))
    return objective


def loss(objective: Labels, logits: Tensor, batch: dict[str, Tensor]) -> Tensor:
    return objective(Activations(logits=logits), None, batch)


def randn(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_cross_entropy_by_hand() -> None:
    logits = torch.tensor([[1.0, 0.0], [0.0, 0.0], [9.0, 9.0]])
    labels = torch.tensor([0, 1, IGNORED])
    objective = bound("single_label", classes=2)
    expected = math.log(1 + math.exp(-1)) + math.log(2)
    assert float(loss(objective, logits, {"labels": labels})) == pytest.approx(expected, rel=1e-6)
    assert int(objective.count({"labels": labels}, TASKS["single_label"])) == 2


def test_smoothing_by_hand() -> None:
    q = (0.7, 0.2, 0.1)
    logits = torch.tensor([q]).double().log()
    found = loss(bound("single_label", classes=3, label_smoothing=0.3), logits, {"labels": torch.tensor([1])})
    expected = 0.7 * -math.log(0.2) + 0.3 * sum(-math.log(c) for c in q) / 3
    assert float(found) == pytest.approx(expected, rel=1e-6)


def test_smoothing_follows_the_arguments_unless_given() -> None:
    logits, batch = randn(3, 4), {"labels": torch.tensor([1, 2, 0])}
    followed = loss(bound("single_label", from_arguments=0.2), logits, batch)
    assert torch.equal(followed, loss(bound("single_label", label_smoothing=0.2), logits, batch))
    plain = loss(bound("single_label", from_arguments=0.2, label_smoothing=0.0), logits, batch)
    assert torch.equal(plain, loss(bound("single_label"), logits, batch))
    assert followed != plain


def test_the_shift_of_a_causal_language_model() -> None:
    logits, labels = randn(1, 3, 4), torch.tensor([[2, 1, 3]])
    law = torch.log_softmax(logits, -1)
    found = loss(bound("causal_lm"), logits, {"input_ids": labels, "labels": labels})
    assert float(found) == pytest.approx(-float(law[0, 0, 1] + law[0, 1, 3]), rel=1e-12)


def test_multi_label_ignores_unknown_labels() -> None:
    logits = randn(2, 3)
    labels = torch.tensor([[1.0, 0.0, IGNORED], [IGNORED, 1.0, 1.0]], dtype=torch.float64)
    s = torch.sigmoid(logits)
    expected = -(s[0, 0].log() + (1 - s[0, 1]).log() + s[1, 1].log() + s[1, 2].log())
    objective = bound("multi_label", classes=3)
    torch.testing.assert_close(loss(objective, logits, {"labels": labels}), expected)
    assert int(objective.count({"labels": labels}, TASKS["multi_label"])) == 4


def test_regression_of_one_and_of_several_outputs() -> None:
    objective = bound("regression", classes=1)
    batch = {"labels": torch.tensor([1.0, IGNORED, -2.0])}
    assert float(loss(objective, torch.tensor([[3.0], [8.0], [0.0]]), batch)) == 8.0
    assert int(objective.count(batch, TASKS["regression"])) == 2
    several = {"labels": torch.tensor([[1.0, 2.0]])}
    assert float(loss(bound("regression", classes=2), torch.tensor([[2.0, 0.0]]), several)) == 5.0


def test_an_answer_is_the_mean_of_start_and_end() -> None:
    start, end = randn(2, 2, 4)
    mask = torch.ones(2, 4, dtype=torch.long)
    batch = {
        "input_ids": mask,
        "attention_mask": mask,
        "start_positions": torch.tensor([1, 0]),
        "end_positions": torch.tensor([2, 3]),
    }
    objective = bound("question_answering", classes=2)
    found = objective(Activations(start_logits=start, end_logits=end), None, batch)
    parts = [
        functional.cross_entropy(logits, batch[name], reduction="sum")
        for logits, name in ((start, "start_positions"), (end, "end_positions"))
    ]
    torch.testing.assert_close(found, (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize("position", [-1, 3, 4, 5, 384])
def test_an_answer_that_was_cut_away_does_not_count(position: int) -> None:
    """Also one that points into the padding: there the logit is -1e30."""
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    batch = {
        "input_ids": mask,
        "attention_mask": mask,
        "start_positions": torch.tensor([0, 4]),
        "end_positions": torch.tensor([position, 4]),
    }
    objective = bound("question_answering", classes=2)
    assert int(objective.count(batch, TASKS["question_answering"])) == 1
    start, end = randn(2, 2, 5)
    found = objective(Activations(start_logits=start, end_logits=end), None, batch)
    expected = (
        functional.cross_entropy(start[1], torch.tensor(4)) + functional.cross_entropy(end[1], torch.tensor(4))
    ) / 2
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("task", "labels", "words"),
    [
        ("regression", torch.zeros(3), r"labels of shape \(3, 1\) for regression logits of shape \(3, 4\)"),
        (
            "single_label",
            torch.zeros(3, 4),
            r"shape \(3, 4\) for single_label .* must have the shape \(3,\)",
        ),
        ("single_label", torch.zeros(3), r"labels of torch.float32 for a single_label task"),
        ("multi_label", torch.zeros(3, dtype=torch.long), r"shape \(3,\); they must be \[batch, classes\]"),
        ("multi_label", torch.zeros(3, 2), r"labels of shape \(3, 2\) for multi_label"),
    ],
)
def test_labels_of_another_kind_are_refused(task: str, labels: Tensor, words: str) -> None:
    with pytest.raises(DataError, match=words):
        loss(bound(task), randn(3, 4), {"labels": labels})


@pytest.mark.parametrize("task", ["single_label", "question_answering", "causal_lm"])
def test_missing_labels_are_named(task: str) -> None:
    column = TASKS[task].label_names[0]
    with pytest.raises(DataError, match=rf"{task}: the column '{column}' .* only input_ids"):
        bound(task).count({"input_ids": torch.zeros(1, 2, dtype=torch.long)}, TASKS[task])


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_smoothing_needs_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"label smoothing of 0.1 on a {task} task"):
        bound(task, from_arguments=0.1)


@pytest.mark.parametrize("value", [-0.1, 1.1, "0.1", True, float("nan")])
def test_smoothing_is_a_number_between_0_and_1(value: Any) -> None:
    with pytest.raises(DistillationError, match="label_smoothing is"):
        Labels(label_smoothing=value)
