"""Labels weighed by how sure the teacher is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.nn import functional

from hf_distill import DistillationTrainer, objectives
from hf_distill.activations import Activations
from hf_distill.errors import DataError, DistillationError, IncompatiblePair
from hf_distill.objectives.response.ban_cwtm import BanCWTM
from hf_distill.tasks import IGNORED
from tests import tiny
from tests.objectives.answers import bound, gradient, randn, value

LABELS = torch.tensor([0, 3, 1])


def trained(**arguments: Any) -> None:
    """A step with batches of a size."""
    DistillationTrainer(
        model=tiny.model("single_label", layers=1, seed=1),
        teacher=tiny.model("single_label", layers=1, seed=2),
        objectives=objectives.make("ban_cwtm", {}),
        args=tiny.arguments(max_steps=1, **arguments),
        train_dataset=tiny.rows("single_label", 8),
        data_collator=tiny.Pad(),
    ).train()


def batch_of(labels: list[int]) -> dict[str, Tensor]:
    return {"input_ids": torch.zeros(len(labels), 1, dtype=torch.long), "labels": torch.tensor(labels)}


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


def test_a_batch_of_one_counts_nothing_and_that_is_said_once() -> None:
    """Its weight would be 1 whatever the teacher says."""
    objective = bound("ban_cwtm")
    batch = batch_of([2])
    shown = [Activations(logits=randn(1, 4, seed=seed)) for seed in (0, 1)]
    assert objective.count(batch, objective.pair.task) == 0
    assert objective(*shown, batch) == 0
    assert objective.remarks() == ["batches of fewer than 2 examples count nothing."]


def test_a_text_of_several_tokens_is_enough() -> None:
    student, teacher, labels = randn(1, 3, 4), randn(1, 3, 4, seed=1), torch.tensor([[0, IGNORED, 1]])
    objective = bound("ban_cwtm", "token_classification")
    assert (objective.smallest_batch, objective.advised_batch) == (1, 1)
    expected = value(bound("ban_cwtm"), student[0], teacher[0], labels[0])
    torch.testing.assert_close(value(objective, student, teacher, labels), expected)


def test_micro_batches_of_one_example_are_refused() -> None:
    with pytest.raises(DistillationError, match=r"'ban_cwtm' relates .* makes it 1; it needs 2.*accumulating"):
        trained(per_device_train_batch_size=1, gradient_accumulation_steps=4)


def test_warns_of_few_examples_a_batch(caplog: pytest.LogCaptureFixture) -> None:
    trained(per_device_train_batch_size=4)
    assert "'ban_cwtm' relates the examples of a batch to each other; per_device_train_batch_size makes it 4" in (
        caplog.text
    )


def test_refuses_to_gather_tokens() -> None:
    with pytest.raises(IncompatiblePair, match=r"ban_cwtm: gather=True relates the examples .* token_classification"):
        bound("ban_cwtm", "token_classification", gather=True)
    with pytest.raises(DistillationError, match="gather is 1; it may be true or false"):
        bound("ban_cwtm", gather=1)


@pytest.mark.parametrize("labels", [[0, 3, 1, 2], [0, 3, IGNORED, 2], [0, 3, IGNORED, IGNORED], [IGNORED] * 4])
def test_processes_that_gather_are_one_batch(labels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Values are added up and gradients averaged over two processes; one of them may have no label."""
    student, teacher = randn(4, 4), randn(4, 4, seed=1)
    leaf = student.clone().requires_grad_()
    whole = bound("ban_cwtm")(Activations(logits=leaf), Activations(logits=teacher), batch_of(labels))
    whole.backward()
    module = "hf_distill.objectives.response.ban_cwtm"
    halves = (slice(0, 2), slice(2, 4))
    monkeypatch.setattr(f"{module}.process_count", lambda: 2)
    seen: list[tuple[Tensor, Tensor]] = []
    total, count, gradients = 0.0, 0, []
    for rank in (0, 1, 0, 1):  # first what each would send

        def exchanged(*own: Tensor, rank: int = rank) -> tuple[Tensor, Tensor]:
            if len(seen) < 2:
                seen.append((own[0].detach(), own[1].detach()))
                return own[0].repeat(2, 1), own[1].repeat(2, 1)
            parts = [own if i == rank else seen[i] for i in (0, 1)]
            return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

        sending = len(seen) < 2
        monkeypatch.setattr(f"{module}.gathered", exchanged)
        monkeypatch.setattr(distributed, "get_rank", lambda rank=rank: rank)
        objective, half = bound("ban_cwtm", gather=True), halves[rank]
        ours, batch = student[half].clone().requires_grad_(), batch_of(labels[half])
        found = objective(Activations(logits=ours), Activations(logits=teacher[half]), batch)
        found.backward()
        if not sending:
            total, count = total + float(found.detach()), count + int(objective.count(batch, objective.pair.task))
            gradients.append(ours.grad)
    assert leaf.grad is not None
    assert total / max(count, 1) == pytest.approx(float(whole.detach()), rel=1e-12)
    torch.testing.assert_close(torch.cat(gradients) / max(count, 1), leaf.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("task", ["multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_one_class_a_row(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"ban_cwtm: .*a {task} task"):
        bound("ban_cwtm", task)


def test_refuses_batches_without_labels() -> None:
    with pytest.raises(DataError, match="the column 'labels'"):
        value(bound("ban_cwtm"), randn(3, 4), randn(3, 4, seed=1))
