"""Labels weighed by how sure the teacher is."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.objectives.response.ban_cwtm import BanCWTM
from hf_distill.tasks import IGNORED
from tests.objectives.answers import bound, gradient, randn, value

LABELS = torch.tensor([0, 3, 1])


def test_weighs_rows_by_the_largest_probability() -> None:
    student = randn(3, 4)
    sure = torch.tensor([0.9, 0.5, 0.3], dtype=torch.float64)
    teacher = torch.stack([torch.tensor([p, *[(1 - p) / 3] * 3], dtype=torch.float64) for p in sure.tolist()]).log()
    each = functional.cross_entropy(student, LABELS, reduction="none")
    expected = (sure * each).sum() / sure.sum()
    torch.testing.assert_close(value(bound("ban_cwtm"), student, teacher, LABELS), expected)


def test_a_teacher_as_sure_of_every_row_is_the_labels_loss() -> None:
    student = randn(3, 4)
    teacher = randn(1, 4, seed=1).expand(3, 4)
    expected = value(bound("labels"), student, None, LABELS)
    torch.testing.assert_close(value(bound("ban_cwtm"), student, teacher, LABELS), expected)
    assert BanCWTM.relates_batch


def test_unlabelled_rows_neither_count_nor_weigh() -> None:
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    labels = torch.tensor([0, IGNORED, 1])
    objective = bound("ban_cwtm")
    found = gradient(objective, student, teacher, labels)
    torch.testing.assert_close(found[[0, 2]], gradient(objective, student[[0, 2]], teacher[[0, 2]], [0, 1]))
    assert not found[1].any()


def test_a_batch_of_one_is_the_labels_loss() -> None:
    student, teacher = randn(1, 4), randn(1, 4, seed=1)
    expected = value(bound("labels"), student, None, [2])
    torch.testing.assert_close(value(bound("ban_cwtm"), student, teacher, [2]), expected)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"ban_cwtm: .*a {task} task"):
        bound("ban_cwtm", task)


def test_refuses_batches_without_labels() -> None:
    with pytest.raises(DataError, match="the column 'labels'"):
        value(bound("ban_cwtm"), randn(3, 4), randn(3, 4, seed=1))
