"""A virtual teacher."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.tasks import IGNORED
from tests.objectives.answers import bound, gradient, randn, value

LABELS = [0, 3, 1]


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize(("classes", "temperature"), [(2, 20.0), (4, 5.0), (4, 0.1)])
def test_the_target_is_a_softmax_of_probabilities(form: str, classes: int, temperature: float) -> None:
    """Written out over all classes, which the objective does not hold."""
    student, labels = randn(3, classes), torch.tensor([0, 1, 1])
    probabilities = torch.full((3, classes), 0.1 / (classes - 1), dtype=torch.float64)
    probabilities[torch.arange(3), labels] = 0.9
    target = (probabilities / temperature).softmax(-1)
    log_q = (student / temperature if form == "paper" else student).log_softmax(-1)
    divergence = (target * (target.log() - log_q)).sum(-1).mean() / (classes if form == "code" else 1)
    expected = 0.7 * functional.cross_entropy(student, labels) + 0.3 * 2.0 * divergence
    settings = {"alpha": 0.3, "correct_probability": 0.9, "temperature": temperature, "multiplier": 2.0}
    found = value(bound("tf_kd_reg", classes=classes, form=form, **settings), student, None, labels)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_certain_virtual_teacher_is_the_label() -> None:
    """At a temperature near 0 the softmax of its probabilities is 1 for the label; then KL is the cross-entropy."""
    student = randn(3, 4)
    objective = bound("tf_kd_reg", alpha=1.0, form="code", multiplier=4.0, temperature=0.01)
    expected = functional.cross_entropy(student, torch.tensor(LABELS))
    torch.testing.assert_close(value(objective, student, None, LABELS), expected)


def test_unlabelled_rows_do_not_count() -> None:
    student, objective = randn(3, 4), bound("tf_kd_reg")
    found = gradient(objective, student, None, [0, IGNORED, 1])
    torch.testing.assert_close(found[[0, 2]], gradient(objective, student[[0, 2]], None, [0, 1]))
    assert not found[1].any()


def test_reads_no_teacher() -> None:
    objective = bound("tf_kd_reg")
    assert not objective.needs().teacher


@pytest.mark.parametrize(("classes", "probability", "warned"), [(2, 0.5, True), (2, 0.51, False), (4, 0.2, True)])
def test_warns_of_a_virtual_teacher_that_is_wrong(
    classes: int, probability: float, warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        bound("tf_kd_reg", classes=classes, correct_probability=probability)
    assert ("the virtual teacher prefers the label's class" in caplog.text) == warned


def test_refuses_one_class() -> None:
    with pytest.raises(IncompatiblePair, match="tf_kd_reg: the task has 1 class, and at least 2 are needed"):
        bound("tf_kd_reg", classes=1)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"tf_kd_reg: .*a {task} task"):
        bound("tf_kd_reg", task)


def test_refuses_batches_without_labels() -> None:
    with pytest.raises(DataError, match="the column 'labels'"):
        value(bound("tf_kd_reg"), randn(3, 4))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"alpha": 1.5}, "alpha is 1.5"),
        ({"correct_probability": -0.1}, "correct_probability is -0.1"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"form": "codes"}, r"form is 'codes' \(did you mean 'code'\?\)"),
        ({"multiplier": None}, "multiplier is None"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(DistillationError, match=f"tf_kd_reg: {words}"):
        bound("tf_kd_reg", **settings)


@pytest.mark.parametrize("name", ["tf_kd_reg", "ban_cwtm"])
def test_labels_are_smoothed_as_the_arguments_ask(name: str) -> None:
    plain, smooth = (bound(name, **({"alpha": 0.0} if name == "tf_kd_reg" else {})) for _ in range(2))
    smooth.bind(replace(smooth.pair, label_smoothing=0.2))
    student, teacher = randn(3, 4), randn(3, 4, seed=1)
    labels = torch.tensor([0, 3, 1])
    every = [value(plain, student, teacher, (labels + shift) % 4) for shift in range(4)]
    expected = 0.8 * every[0] + 0.2 * sum(every) / 4
    torch.testing.assert_close(value(smooth, student, teacher, labels), expected)
