"""The two losses over answers of Chen et al.: bounded regression and weighted soft cross-entropy."""

from __future__ import annotations

import pytest
import torch
from datasets import Dataset

from hf_distill import DistillationTrainer, WeightedSoftCE, objectives
from hf_distill.anatomy import Anatomy
from hf_distill.data.class_counts import class_counts
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives import Pair
from hf_distill.tasks import TASKS
from tests import tiny
from tests.objectives.answers import bound, gradient, randn, value
from tests.shapes import shape

STUDENT = torch.tensor([[1.0], [1.0], [1.0], [1.0]], dtype=torch.float64)
TARGETS = torch.tensor([0.0, 0.0, 0.0, 0.0], dtype=torch.float64)
TEACHER = torch.tensor([[0.5], [1.0], [1.1], [-2.0]], dtype=torch.float64)


def test_the_extra_pull_stops_where_the_student_is_better() -> None:
    """Squared errors: the student's 1, the teacher's 0.25, 1, 1.21 and 4; a margin of 0.5 moves the bound to 1.5."""
    for margin, pulled in ((0.0, 1), (0.1, 2), (0.5, 3)):
        objective = bound("bounded_regression", "regression", 1, margin=margin, nu=0.5, base="mse")
        found = value(objective, STUDENT, TEACHER, TARGETS)
        assert float(found) == pytest.approx(1.0 + 0.5 * pulled / 4)
        each = gradient(objective, STUDENT, TEACHER, TARGETS).squeeze(-1).tolist()
        assert each == pytest.approx([(2.0 + 1.0 * (i < pulled)) / 4 for i in range(4)])


def test_the_base_is_smooth_by_default() -> None:
    without = [
        bound("bounded_regression", "regression", 1, nu=0.0, **settings)
        for settings in ({}, {"base": "smooth_l1"}, {"base": "mse"})
    ]
    found = [float(value(objective, 3 * STUDENT, TEACHER, TARGETS)) for objective in without]
    assert found == pytest.approx([2.5, 2.5, 9.0])


def test_scores_without_a_target_contribute_nothing() -> None:
    targets = torch.tensor([0.0, -100.0, 0.0, -100.0], dtype=torch.float64)
    objective = bound("bounded_regression", "regression", 1)
    expected = value(objective, STUDENT[[0, 2]], TEACHER[[0, 2]], TARGETS[[0, 2]])
    assert float(value(objective, STUDENT, TEACHER, targets)) == pytest.approx(float(expected))
    assert not gradient(objective, STUDENT, TEACHER, targets)[[1, 3]].any()


@pytest.mark.parametrize("task", ["single_label", "multi_label", "token_classification"])
def test_bounds_scores_alone(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"bounded_regression: a {task} task has no scores"):
        bound("bounded_regression", task)


def test_bounds_need_targets() -> None:
    with pytest.raises(DataError, match="the column 'labels'"):
        value(bound("bounded_regression", "regression", 1), STUDENT, TEACHER)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"margin": -0.1}, "margin is -0.1"),
        ({"nu": float("inf")}, "nu is inf"),
        ({"base": "l2"}, "base is 'l2'; it may be smooth_l1, mse"),
    ],
)
def test_refuses_bounds_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(DistillationError, match=f"bounded_regression: {words}"):
        bound("bounded_regression", "regression", 1, **settings)


def test_equal_weights_are_the_cross_entropy_of_soft_targets() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    for scale in ("none", "tau2"):
        plain = bound("soft_targets", kind="cross_entropy", temperature=3.0, scale=scale)
        objective = bound("weighted_soft_ce", class_weights=[1, 1, 1, 1], temperature=3.0, scale=scale)
        torch.testing.assert_close(value(objective, student, teacher), value(plain, student, teacher))


def test_is_smallest_at_the_weighted_law() -> None:
    """The minimiser is q in proportion to w p, and it is not the teacher's law."""
    teacher = randn(3, 4)
    weights = torch.tensor([0.5, 2.0, 1.0, 3.0], dtype=torch.float64)
    objective = bound("weighted_soft_ce", class_weights=weights.tolist())
    best = (weights * teacher.softmax(-1)).log()
    assert gradient(objective, best, teacher).abs().max() < 1e-8
    assert gradient(objective, teacher, teacher).abs().max() > 1e-2
    assert value(objective, best, teacher) < value(objective, teacher, teacher)


def test_the_first_class_weighs_more_by_default() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    expected = value(bound("weighted_soft_ce", class_weights=[1.5, 1.0, 1.0, 1.0]), student, teacher)
    assert torch.equal(value(bound("weighted_soft_ce"), student, teacher), expected)


def test_rare_classes_weigh_more_by_their_number_of_labels() -> None:
    """6, 3 and 2 labels: 1/6, 1/3 and 1/2, whose mean is 1/3."""
    student, teacher = randn(3, 3), randn(3, 3, seed=1)
    objective = bound("weighted_soft_ce", classes=3, class_weights="auto")
    with pytest.raises(DistillationError, match="no training rows were counted"):
        value(objective, student, teacher)
    objective.see_classes([6, 3, 2])
    expected = bound("weighted_soft_ce", classes=3, class_weights=[0.5, 1.0, 1.5])
    assert torch.equal(value(objective, student, teacher), value(expected, student, teacher))
    assert objective.settings()["class_weights"] == "auto"


def test_a_class_without_a_label_has_no_weight() -> None:
    with pytest.raises(DataError, match=r"weighted_soft_ce: class_weights is 'auto', and class 1 .*no label"):
        bound("weighted_soft_ce", classes=3, class_weights="auto").see_classes([6, 0, 2])


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([{"labels": 2}, {"labels": 0}, {"labels": 2}, {"labels": -100}], [1, 0, 2]),
        ([{"label": 1}, {"label": 1}], [0, 2, 0]),
        ([{"labels": [0, -100, 2]}, {"labels": [0, 0, 0, 1]}, {"labels": []}], [4, 1, 1]),
    ],
)
def test_labels_are_counted_over_rows_and_tokens(rows: list[dict[str, object]], counts: list[int]) -> None:
    assert class_counts(rows, 3) == counts
    assert class_counts(Dataset.from_list(rows), 3) == counts


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"labels": 3}], "a row has the label 3, and the classes are 0 to 2"),
        ([{"labels": [0, -1]}], r"a row has the label \[0, -1\]"),
        ([{"labels": 0.5}], "a row has 0.5; classes are whole numbers"),
        ([{"input_ids": [1]}], "no column 'labels' or 'label'"),
        ([], "no column 'labels' or 'label'"),
        (iter([{"labels": 1}]), "those of a stream"),
    ],
)
def test_labels_that_cannot_be_counted(rows: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        class_counts(rows, 3)


def test_the_trainer_counts_the_labels_of_its_rows() -> None:
    rows = tiny.rows("token_classification", 16)
    counts = class_counts(rows, 3)
    assert len(set(counts)) > 1
    trainer = DistillationTrainer(
        model=tiny.model("token_classification", seed=1),
        teacher=tiny.model("token_classification", seed=2),
        objectives=WeightedSoftCE(class_weights="auto"),
        args=tiny.arguments(max_steps=1),
        train_dataset=rows,
        data_collator=tiny.Pad(),
    )
    (objective,) = trainer.distillation.terms()
    expected = torch.tensor([1 / count for count in counts])
    torch.testing.assert_close(objective._weights.cpu(), 3 * expected / expected.sum())
    trainer.model.to("meta")
    trainer._show_rows(trainer.distillation)
    assert objective._weights.device.type == "meta", "where the student is"


def test_refuses_another_number_of_weights() -> None:
    with pytest.raises(IncompatiblePair, match="class_weights has 2 numbers, and the task 4 classes"):
        bound("weighted_soft_ce", class_weights=[1.0, 2.0])


@pytest.mark.parametrize(
    "weights", ["1, 2", 3.0, [], [1.0, -1.0], [1.0, float("nan")], [True, 1.0], [0.0, 0.0], ["1"]]
)
def test_refuses_weights_that_are_none(weights: object) -> None:
    with pytest.raises(DistillationError, match=r"weighted_soft_ce: .*class_weights"):
        bound("weighted_soft_ce", classes=2, class_weights=weights)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_weighs_classes_of_a_row_alone(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"weighted_soft_ce: .*a {task} task"):
        bound("weighted_soft_ce", task)


@pytest.mark.parametrize(
    ("classes", "weights", "told"),
    [
        (("O", "B-PER"), None, False),
        (("background", "cat"), None, False),
        (("negative", "positive"), None, True),
        ((), None, True),
        (("negative", "positive"), [1.5, 1.0], False),
    ],
)
def test_warns_of_a_first_class_that_is_no_background(
    classes: tuple[str, ...], weights: list[float] | None, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    pair = Pair.from_shapes(shape(num_logits=2), shape(num_logits=2), TASKS["single_label"], classes=classes)
    objectives.make("weighted_soft_ce", {"class_weights": weights}).bind(pair)
    assert ("the first class weighs 1.5" in caplog.text) == told


def test_classes_are_known_by_the_names_of_the_student() -> None:
    student, teacher = (Anatomy.of(tiny.model("single_label", seed=seed)) for seed in (1, 2))
    student.base.config.id2label = teacher.base.config.id2label = {0: "O", 1: "x", 2: "y"}
    assert Pair.of(student, teacher, TASKS["single_label"]).classes == ("O", "x", "y")
