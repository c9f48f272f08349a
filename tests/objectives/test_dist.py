"""DIST beside the correlations of numpy."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.objectives import DIST, Pair
from hf_distill.tasks import IGNORED, TASKS
from tests.objectives.answers import bound, gradient, randn, value
from tests.shapes import shape


def correlations(student: Tensor, teacher: Tensor) -> tuple[float, float]:
    """Means over rows, and over columns, of laws `[rows, classes]`."""
    q, p = student.softmax(-1).numpy(), teacher.softmax(-1).numpy()
    rows = [numpy.corrcoef(one, other)[0, 1] for one, other in zip(q, p, strict=True)]
    columns = [numpy.corrcoef(one, other)[0, 1] for one, other in zip(q.T, p.T, strict=True)]
    return float(numpy.mean(rows)), float(numpy.mean(columns))


def test_both_terms_are_those_of_numpy() -> None:
    student, teacher = randn(5, 4), randn(5, 4, seed=1)
    rows, columns = correlations(student / 2, teacher / 2)
    for beta, gamma in ((1.0, 0.0), (0.0, 1.0), (2.0, 3.0)):
        found = float(value(bound("dist", beta=beta, gamma=gamma, temperature=2.0), student, teacher))
        assert found == pytest.approx(4.0 * (beta * (1 - rows) + gamma * (1 - columns)), rel=1e-5)


def test_a_student_like_its_teacher_has_no_loss() -> None:
    teacher = randn(5, 4)
    assert float(value(bound("dist"), teacher, teacher)) == pytest.approx(0.0, abs=1e-5)
    assert gradient(bound("dist"), teacher, teacher).abs().max() < 1e-5


def test_a_more_even_student_in_proportion_has_no_loss_within_a_row() -> None:
    p = randn(5, 4).softmax(-1)
    q = 0.3 * p + 0.7 / 4
    assert float(value(bound("dist", gamma=0.0), q.log(), p.log())) == pytest.approx(0.0, abs=1e-5)
    assert float(value(bound("soft_targets", temperature=1.0), q.log(), p.log())) > 0.05


def test_rows_that_do_not_count_change_nothing() -> None:
    student, teacher = randn(2, 3, 4), randn(2, 3, 4, seed=1)
    labels = torch.tensor([[0, 0, IGNORED], [0, IGNORED, 0]])
    objective = bound("dist", "token_classification")
    counted = labels != IGNORED
    expected = value(bound("dist"), student[counted], teacher[counted])
    torch.testing.assert_close(value(objective, student, teacher, labels), expected, rtol=1e-12, atol=0)
    teacher[~counted] = float("nan")
    found = gradient(objective, student, teacher, labels)
    assert found.isfinite().all()
    assert not found[~counted].any()


def test_a_class_of_too_little_mass_is_left_out_of_intra() -> None:
    student, teacher = randn(5, 4), randn(5, 4, seed=1)
    teacher[:, 2] = -30.0
    found = float(value(bound("dist", beta=0.0, gamma=1.0, min_mass=1e-6), student, teacher))
    q, p = student.softmax(-1).numpy().T, teacher.softmax(-1).numpy().T
    kept = [numpy.corrcoef(q[c], p[c])[0, 1] for c in (0, 1, 3)]
    assert found == pytest.approx(1 - numpy.mean(kept), rel=1e-5)


def test_of_one_row_the_columns_say_nothing_and_that_is_said_once() -> None:
    objective = bound("dist")
    found = gradient(objective, randn(1, 4), randn(1, 4, seed=1))
    torch.testing.assert_close(found, gradient(bound("dist", gamma=0.0), randn(1, 4), randn(1, 4, seed=1)))
    assert found.any()
    assert [text for text in objective.remarks() if "one row that counts" in text]
    value(objective, randn(1, 4), randn(1, 4, seed=1))
    assert objective.remarks() == []


def test_counts_batches_and_none_of_nothing() -> None:
    objective = bound("dist", "token_classification")
    mask = torch.ones(2, 3, dtype=torch.long)
    for labels, count in ((torch.zeros_like(mask), 1), (torch.full_like(mask, IGNORED), 0)):
        batch = {"input_ids": mask, "attention_mask": mask, "labels": labels}
        assert int(objective.count(batch, objective.pair.task)) == count
    assert DIST.relates_batch
    assert DIST.advised_batch == 3


def test_refuses_two_classes() -> None:
    with pytest.raises(IncompatiblePair, match=r"dist: the task has 2 classes, and at least 3 are needed.*correlate"):
        bound("dist", classes=2)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"dist: .*a {task} task"):
        bound("dist", task)


@pytest.mark.parametrize("name", ["dist", "ban_cwtm"])
def test_a_vocabulary_at_once_must_be_asked_for(name: str) -> None:
    with pytest.raises(IncompatiblePair, match=rf"{name}: the student predicts one of 5000 words.*whole_logits=True"):
        bound(name, "masked_lm", classes=5000)
    assert bound(name, "masked_lm", classes=5000, whole_logits=True).settings()["whole_logits"] is True
    assert bound(name, "masked_lm", classes=4096).settings()["whole_logits"] is False


def test_refuses_to_gather_tokens() -> None:
    with pytest.raises(IncompatiblePair, match=r"gather=True relates the examples .* token_classification"):
        bound("dist", "token_classification", gather=True)
    gathering = bound("dist", gather=True)  # in one process it changes nothing
    student, teacher = randn(5, 4), randn(5, 4, seed=1)
    assert torch.equal(value(gathering, student, teacher), value(bound("dist"), student, teacher))


def test_reads_one_teacher_alone() -> None:
    assert not DIST.takes_members


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": -1.0}, "beta is -1.0"),
        ({"gamma": "2"}, "gamma is '2'"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"min_mass": 2.0}, "min_mass is 2.0"),
        ({"tokens": "some"}, "tokens is 'some'"),
        ({"gather": 1}, "gather is 1; it may be true or false"),
        ({"whole_logits": 1}, "whole_logits is 1; it may be true or false"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(DistillationError, match=f"dist: {words}"):
        bound("dist", **settings)


def test_refuses_tokens_that_the_task_does_not_have() -> None:
    pair = Pair.from_shapes(shape(num_logits=4), shape(num_logits=4), TASKS["single_label"])
    with pytest.raises(IncompatiblePair, match="dist: tokens is 'masked'; a single_label task has nothing"):
        DIST(tokens="masked").bind(pair)
