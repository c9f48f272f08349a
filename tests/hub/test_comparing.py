"""An export beside its original: which answers are compared, and how."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hf_distill.errors import DataError
from hf_distill.hub.comparing import PADDING, answers, check_rows, compare


def replies(*outputs: dict[str, Tensor]) -> Any:
    """A model that answers its batches one after the other."""
    left = list(outputs)
    return lambda **inputs: SimpleNamespace(**left.pop(0))


def batch(lengths: list[int], width: int, **more: Tensor) -> dict[str, Tensor]:
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return {"input_ids": mask, "attention_mask": mask, **more}


def test_of_tokens_only_real_ones_count() -> None:
    batches = [
        batch([2, 1], 2, labels=torch.tensor([[1, -100], [0, 1]])),
        batch([3], 3, labels=torch.tensor([[0, 1, -100]])),
    ]
    logits = [torch.tensor([[[0.0, 1.0], [9.0, 0.0]], [[1.0, 0.0], [7.0, 7.0]]]), torch.zeros(1, 3, 2)]
    expected = answers(replies(*({"logits": each} for each in logits)), batches)
    assert expected.tolist() == [[0.0, 1.0], [9.0, 0.0], [1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    found = expected.clone()
    found[2] = torch.tensor([0.0, 3.0])
    difference = compare(found, expected, batches, "softmax")
    assert difference.rows == 3
    assert difference.agreement == pytest.approx(5 / 6)
    assert difference.largest_difference == 3.0
    # Labels that count: 1 and 0 of the first batch, 0 and 1 of the second, where ties go to class 0.
    assert difference.original_accuracy == pytest.approx(3 / 4)
    assert difference.accuracy == pytest.approx(2 / 4)


def test_positions_behind_a_text_are_no_answers() -> None:
    batches = [batch([2, 3], 3), batch([1], 1)]
    first = {"start_logits": torch.tensor([[-5.0, -3.0, 99.0], [0.0, 1.0, 2.0]]), "end_logits": torch.ones(2, 3)}
    second = {"start_logits": torch.tensor([[4.0]]), "end_logits": torch.tensor([[4.0]])}
    found = answers(replies(first, second, first, second), batches, ("start_logits", "end_logits"))
    assert found[:3].tolist() == [[-5.0, -3.0, PADDING], [0.0, 1.0, 2.0], [4.0, PADDING, PADDING]]
    assert found[3:].tolist() == [[1.0, 1.0, PADDING], [1.0, 1.0, 1.0], [4.0, PADDING, PADDING]]
    difference = compare(found, found, batches, "softmax")
    assert (difference.agreement, difference.largest_difference, difference.accuracy) == (1.0, 0.0, None)


@pytest.mark.parametrize("labels", [torch.tensor([0.5, 1.5, 2.0]), torch.tensor([[1.0, 0.0]] * 3)])
def test_only_classes_have_an_accuracy(labels: Tensor) -> None:
    width = labels.shape[-1] if labels.dim() == 2 else 1
    logits = torch.arange(3 * width, dtype=torch.float32).view(3, width)
    difference = compare(2 * logits, logits, [batch([1, 1, 1], 1, labels=labels)], "softmax")
    assert difference.accuracy is None
    assert difference.original_accuracy is None
    assert difference.agreement == pytest.approx(1.0)


def test_several_classes_are_one_answer() -> None:
    """The largest logit is the same in every row; the classes above 0 are in two of three. By hand: of the original's
    rows the first and the third are right (an unknown label counts for nothing), of the other's the third."""
    expected = torch.tensor([[2.0, 1.0, -1.0], [3.0, -1.0, -1.0], [-1.0, -2.0, -3.0]])
    found = torch.tensor([[2.0, -0.5, -1.0], [3.0, -1.0, -2.0], [-1.0, -2.0, -3.0]])
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, -100.0, 0.0]])
    difference = compare(found, expected, [batch([1, 1, 1], 1, labels=labels)], "sigmoid")
    assert difference.agreement == pytest.approx(2 / 3)
    assert difference.original_accuracy == pytest.approx(2 / 3)
    assert difference.accuracy == pytest.approx(1 / 3)


def test_labels_are_not_given_to_the_model() -> None:
    seen: list[set[str]] = []

    def model(**inputs: Tensor) -> Any:
        seen.append(set(inputs))
        return SimpleNamespace(logits=torch.zeros(1, 2))

    answers(model, [batch([1], 1, labels=torch.ones(1), start_positions=torch.ones(1), end_positions=torch.ones(1))])
    assert seen == [{"input_ids", "attention_mask"}]


def test_a_few_rows_or_rows_of_one_length_are_refused() -> None:
    check_rows([batch([2] * 63 + [1], 2)])
    for batches in ([batch([2] * 62 + [1], 2)], [batch([2] * 64, 2)]):
        with pytest.raises(DataError, match="64 or more, of different lengths in one batch"):
            check_rows(batches)
