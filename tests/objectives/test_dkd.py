"""Decoupled knowledge distillation beside the soft targets that it takes apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.tasks import IGNORED
from tests.objectives.answers import bound, gradient, randn, value

LABELS = [0, 3, 1]


def halves(student: Tensor, teacher: Tensor, label: int) -> tuple[float, float]:
    """Of one row the divergence of the label's class against the rest, and the one within the rest; by loops."""
    q, p = student.softmax(-1).tolist(), teacher.softmax(-1).tolist()
    rest = [c for c in range(len(p)) if c != label]
    mass = [sum(law[c] for c in rest) for law in (q, p)]
    log = torch.tensor
    two = sum(ours * float(log(ours / theirs).log()) for ours, theirs in ((p[label], q[label]), (mass[1], mass[0])))
    inner = sum(p[c] / mass[1] * float(log(p[c] / mass[1] / (q[c] / mass[0])).log()) for c in rest)
    return two, inner


def test_soft_targets_are_the_target_and_the_rest_as_sure_as_the_teacher_is_not() -> None:
    """KL(p || q) = KL of the two + (1 - p_y) KL of the rest, row by row."""
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    for row, label in enumerate(LABELS):
        one, other = student[row : row + 1], teacher[row : row + 1]
        rest = 1.0 - float(other.softmax(-1)[0, label])
        found = value(bound("dkd", alpha=1.0, beta=rest, temperature=1.0), one, other, [label])
        expected = value(bound("soft_targets", temperature=1.0), one, other)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)


def test_both_halves_by_hand() -> None:
    student, teacher = 2 * randn(3, 4), 2 * randn(3, 4, seed=1)
    parts = [halves(student[i], teacher[i], label) for i, label in enumerate(LABELS)]
    for alpha, beta in ((1.0, 0.0), (0.0, 1.0), (0.5, 3.0)):
        expected = sum(alpha * two + beta * inner for two, inner in parts) / 3
        found = value(bound("dkd", alpha=alpha, beta=beta, temperature=1.0), student, teacher, LABELS)
        assert float(found) == pytest.approx(expected, rel=1e-6)


def test_a_saturated_student_has_a_finite_value_and_gradient() -> None:
    """Of float32 numbers, 1 - q_y is an exact 0 and its log is not."""
    student = torch.tensor([[200.0, 0.0, -200.0], [-200.0, 0.0, 200.0]])
    teacher = torch.tensor([[1.0, 2.0, 3.0], [300.0, 0.0, 0.0]])
    objective = bound("dkd", classes=3, temperature=1.0)
    assert float(value(objective, student, teacher, [0, 0])) > 100.0
    found = gradient(objective, student, teacher, [0, 0])
    assert found.isfinite().all()
    assert found[0, 0] > 0 > found[1, 0]


def test_what_is_standardized_knows_no_scale() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    plain, standard = (bound("dkd", standardize=standardize) for standardize in (False, True))
    once = value(standard, student, teacher, LABELS)
    torch.testing.assert_close(value(standard, 5 * student + 1, 3 * teacher, LABELS), once, rtol=1e-5, atol=0)
    assert abs(value(plain, 5 * student + 1, 3 * teacher, LABELS) - value(plain, student, teacher, LABELS)) > 0.1
    assert (plain.softens_at, standard.softens_at) == (4.0, None)


def test_unlabelled_rows_do_not_count() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    objective = bound("dkd")
    found = gradient(objective, student, teacher, [0, IGNORED, 1])
    expected = gradient(objective, student[[0, 2]], teacher[[0, 2]], [0, 1])
    torch.testing.assert_close(found[[0, 2]], expected)
    assert not found[1].any()


def test_refuses_two_classes() -> None:
    with pytest.raises(IncompatiblePair, match=r"dkd: the task has 2 classes, and at least 3 are.*soft_targets"):
        bound("dkd", classes=2)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"dkd: .*a {task} task"):
        bound("dkd", task)


def test_refuses_batches_without_labels() -> None:
    with pytest.raises(DataError, match="the column 'labels' says what counts"):
        value(bound("dkd"), randn(3, 4), randn(3, 4, seed=1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": -1.0}, "alpha is -1.0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"temperature": 0.0}, "temperature is 0.0; it must be a number above 0"),
        ({"standardize": "yes"}, "standardize is 'yes'; it may be true or false"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, float], words: str) -> None:
    with pytest.raises(DistillationError, match=f"dkd: {words}"):
        bound("dkd", **settings)
