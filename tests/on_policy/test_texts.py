"""Prompts out of batches, and batches out of what was written."""

from __future__ import annotations

import pytest
import torch

from hf_distill import DataError
from hf_distill.training.texts import Written, answered, continued, prompts_of

FIRST = {
    "input_ids": torch.tensor([[5, 6, 7, 8, 0], [9, 4, 3, 0, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]),
    "labels": torch.tensor([[-100, -100, 7, 8, -100], [-100, 4, -100, -100, -100]]),
    "row": torch.tensor([11, 12]),
    "special_tokens_mask": torch.zeros(2, 5),
}
SECOND = {  # padded on the left; the second row has no label
    "input_ids": torch.tensor([[0, 0, 3, 9, 8, 6], [0, 7, 7, 5, 5, 5]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1]]),
    "labels": torch.tensor([[-100, -100, -100, -100, -100, 6], [-100] * 6]),
    "row": torch.tensor([13, 14]),
    "special_tokens_mask": torch.zeros(2, 6),
}
WINDOW = [FIRST, SECOND]


def test_prompts_stand_before_the_first_label_and_are_padded_on_the_left() -> None:
    found = prompts_of(WINDOW, decoder=True, prompt_tokens=None, padding=1)
    assert found.ids.tolist() == [[1, 1, 1, 5, 6], [1, 1, 1, 1, 9], [1, 1, 3, 9, 8], [7, 7, 5, 5, 5]]
    assert found.mask.sum(1).tolist() == [2, 1, 3, 5]
    assert torch.equal(found.mask, found.ids != 1)
    assert found.counted.tolist() == [True, True, True, False]
    assert found.sizes == (2, 2)


def test_prompts_of_so_many_tokens() -> None:
    found = prompts_of(WINDOW, decoder=True, prompt_tokens=4, padding=0)
    assert found.ids.tolist() == [[5, 6, 7, 8], [0, 9, 4, 3], [3, 9, 8, 6], [7, 7, 5, 5]]
    assert found.counted.tolist() == [True, True, True, False]
    unlabelled = [{name: batch[name] for name in ("input_ids", "attention_mask")} for batch in WINDOW]
    without = prompts_of(unlabelled, decoder=True, prompt_tokens=4, padding=0)
    assert torch.equal(without.ids, found.ids)
    assert without.counted.all()


def test_texts_stand_behind_prompts_padded_on_the_right() -> None:
    prompts = prompts_of(WINDOW, decoder=True, prompt_tokens=None, padding=1)
    ids = torch.tensor([[20, 2, 0], [21, 22, 23], [2, 0, 0], [24, 25, 2]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 1]]).bool()
    first, second = continued(WINDOW, prompts, Written(ids, mask, mask.any(1)), 1)
    assert first["input_ids"].tolist() == [[5, 6, 20, 2], [9, 21, 22, 23]]
    assert first["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1]]
    assert first["labels"].tolist() == [[-100, -100, 20, 2], [-100, 21, 22, 23]]
    assert second["input_ids"].tolist() == [[3, 9, 8, 2, 1, 1, 1, 1], [7, 7, 5, 5, 5, 24, 25, 2]]
    assert second["attention_mask"].tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1] * 8]
    assert second["labels"].tolist() == [[-100, -100, -100, 2, -100, -100, -100, -100], [-100] * 8]
    assert [list(batch) for batch in (first, second)] == [["row", "input_ids", "attention_mask", "labels"]] * 2
    assert second["row"].tolist() == [13, 14]


def test_an_encoder_decoder_answers() -> None:
    window = [{**FIRST, "decoder_input_ids": torch.ones(2, 5)}, SECOND]
    prompts = prompts_of(window, decoder=False, prompt_tokens=None, padding=1)
    expected = [[5, 6, 7, 8, 1], [9, 4, 3, 1, 1], [3, 9, 8, 6, 1], [7, 7, 5, 5, 5]]
    assert prompts.ids.tolist() == expected
    assert torch.equal(prompts.mask, prompts.ids != 1)
    ids = torch.tensor([[20, 2, 0], [21, 2, 0], [20, 21, 22], [24, 25, 2]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]).bool()
    first, second = answered(window, prompts, Written(ids, mask, mask.any(1)))
    assert first["labels"].tolist() == [[20, 2], [21, 2]]
    assert second["labels"].tolist() == [[20, 21, 22], [-100, -100, -100]]
    assert set(first) == set(FIRST)
    assert all(first[name] is FIRST[name] for name in FIRST if name != "labels")


def test_what_has_no_prompt_is_refused() -> None:
    bare = {**FIRST, "labels": torch.tensor([[-100, -100, 7, 8, -100], [9, 4, -100, -100, -100]])}
    with pytest.raises(DataError, match="row 2 of the rows of a step has no prompt: its first token has a label"):
        prompts_of([bare], decoder=True, prompt_tokens=None, padding=0)
    empty = {**SECOND, "attention_mask": torch.tensor([[0] * 6, [1] * 6])}
    with pytest.raises(DataError, match="row 3 of the rows of a step has no prompt: its attention_mask"):
        prompts_of([FIRST, empty], decoder=True, prompt_tokens=2, padding=0)
    with pytest.raises(DataError, match="the batch has only input_ids, attention_mask"):
        prompts_of(
            [{name: FIRST[name] for name in ("input_ids", "attention_mask")}],
            decoder=True, prompt_tokens=None, padding=0,
        )  # fmt: skip
    packed = {**FIRST, "position_ids": torch.zeros(2, 5)}
    with pytest.raises(DataError, match=r"position_ids.*Leave packing out"):
        prompts_of([packed], decoder=True, prompt_tokens=None, padding=0)
