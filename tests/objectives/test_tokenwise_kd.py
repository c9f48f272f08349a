"""Soft targets at every token."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hf_distill.activations import Activations
from hf_distill.errors import DistillationError, IncompatiblePair
from hf_distill.tasks import IGNORED
from hf_distill.top_logits import RECORDED
from tests.objectives.answers import bound, randn, value

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
LABELS = torch.tensor([[1, IGNORED, 2, IGNORED], [IGNORED, 0, IGNORED, IGNORED]])


def counted(task: str, **settings: Any) -> int:
    objective = bound("tokenwise_kd", task, **settings)
    batch = {"input_ids": MASK, "attention_mask": MASK, "labels": LABELS}
    return int(objective.count(batch, objective.pair.task))


def test_counts_every_real_token_unless_told() -> None:
    assert counted("token_classification") == counted("masked_lm") == counted("causal_lm") == 5
    assert counted("token_classification", tokens="labeled") == counted("masked_lm", tokens="masked") == 3
    assert counted("causal_lm", tokens="labeled") == 2
    assert counted("seq2seq_lm") == 3


@pytest.mark.parametrize(("direction", "kind"), [("teacher_first", "forward_kl"), ("student_first", "reverse_kl")])
def test_is_soft_targets_at_every_token(direction: str, kind: str) -> None:
    student, teacher = randn(2, 4, 5), randn(2, 4, 5, seed=1)
    objective = bound("tokenwise_kd", "masked_lm", 5, direction=direction, temperature=2.0)
    expected = bound("soft_targets", "masked_lm", 5, kind=kind, temperature=2.0)
    torch.testing.assert_close(value(objective, student, teacher), value(expected, student, teacher))


def test_a_causal_model_is_compared_at_its_last_token_too() -> None:
    student, teacher = randn(2, 4, 5), randn(2, 4, 5, seed=1)
    objective = bound("tokenwise_kd", "causal_lm", 5)
    leaf = student.clone().requires_grad_()
    objective(
        Activations(logits=leaf), Activations(logits=teacher), {"input_ids": MASK, "attention_mask": MASK}
    ).backward()
    assert leaf.grad is not None
    assert torch.equal(leaf.grad.abs().sum(-1) > 0, MASK.bool())


@pytest.mark.parametrize(("task", "tokens", "counts"), [("masked_lm", "all", 4), ("causal_lm", "attention", 4)])
def test_tokens_of_which_a_teacher_left_no_record_do_not_count(task: str, tokens: str, counts: int) -> None:
    recorded = torch.tensor([[True, False, True, True], [True, True, True, True]])
    batch = {"input_ids": MASK, "attention_mask": MASK, "labels": LABELS, RECORDED: recorded}
    for objective in (bound("tokenwise_kd", task, 5), bound("soft_targets", task, 5, tokens=tokens)):
        assert int(objective.count(batch, objective.pair.task)) == counts
        leaf = randn(2, 4, 5).requires_grad_()
        objective(Activations(logits=leaf), Activations(logits=randn(2, 4, 5, seed=1)), batch).backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad.abs().sum(-1) > 0, MASK.bool() & recorded)


@pytest.mark.parametrize("task", ["single_label", "multi_label", "regression", "question_answering"])
def test_refuses_tasks_without_an_answer_a_token(task: str) -> None:
    with pytest.raises(IncompatiblePair, match=f"tokenwise_kd: .*{task} task"):
        bound("tokenwise_kd", task)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"direction": "both"}, "direction is 'both'; it may be teacher_first, student_first"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"tokens": 3}, "tokens is 3"),
    ],
)
def test_refuses_settings_out_of_range(settings: dict[str, object], words: str) -> None:
    with pytest.raises(DistillationError, match=f"tokenwise_kd: {words}"):
        bound("tokenwise_kd", "masked_lm", **settings)
