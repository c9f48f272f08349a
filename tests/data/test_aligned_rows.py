"""Rows in the tokens of two tokenizers, and batches of them."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hf_distill.data.aligned_rows import AlignedPadding, AlignmentCounts, align_texts
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED
from tests.tokenizers_of_kinds import CORPUS, tokenizer

WORDPIECE, BPE, UNIGRAM = (tokenizer(kind) for kind in ("wordpiece", "bpe", "unigram"))


def pieces(row: dict[str, Any], side: str, tokens: Any) -> dict[int, str]:
    """The text of each span of a row, letters alone."""
    found: dict[int, str] = {}
    spans = row[f"{side}_spans"]
    for token, span in zip(row["input_ids" if side == "student" else "teacher_input_ids"], spans, strict=True):
        if span >= 0:
            found[span] = found.get(span, "") + tokens.convert_ids_to_tokens(token).replace("##", "").replace("Ġ", "")
    return found


def test_rows_hold_the_text_of_both_with_its_ends_aligned_by_role() -> None:
    rows, counts = align_texts(["the lazy dog"], WORDPIECE, BPE, 40)
    (row,) = rows
    assert row["input_ids"] == WORDPIECE("the lazy dog")["input_ids"]
    assert row["teacher_input_ids"] == [*BPE("the lazy dog")["input_ids"], BPE.eos_token_id]
    assert row["labels"] == [IGNORED, *row["input_ids"][1:]]
    assert row["teacher_labels"] == row["teacher_input_ids"]
    ours, theirs = pieces(row, "student", WORDPIECE), pieces(row, "teacher", BPE)
    assert ours.pop(max(ours)) == "[SEP]"
    assert theirs.pop(max(theirs)) == "<|end|>"
    assert ours == theirs
    assert sorted(ours) == list(range(len(ours)))
    first = next(place for place, span in enumerate(row["teacher_spans"]) if span == 0)
    assert first > 0  # nothing predicts the first token of a text without a beginning
    assert counts.teacher_unaligned == first
    assert "".join(ours.values()) == "thelazydog"[len(BPE.decode(row["teacher_input_ids"][:first])) :]


def test_counts_are_those_of_the_rows(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "hf_distill"):
        rows, counts = align_texts([*CORPUS, "", "\n", "the dog  \n"], WORDPIECE, BPE, 200)
    assert counts.texts == len(CORPUS) + 3
    assert counts.rows == len(rows) == len(CORPUS) + 1
    assert counts.texts_left_out == 2
    assert counts.cut_characters == 0
    assert counts.spans == sum(len(set(row["student_spans"]) - {-1}) for row in rows)
    for side, labels in (("student", "labels"), ("teacher", "teacher_labels")):
        flat = [each for row in rows for each in zip(row[f"{side}_spans"], row[labels], strict=True)]
        assert getattr(counts, f"{side}_tokens") == sum(label != IGNORED for _, label in flat)
        assert getattr(counts, f"{side}_unaligned") == sum(s < 0 for s, label in flat if label != IGNORED) > 0
    assert str(counts) in caplog.text
    assert AlignmentCounts(**counts.to_dict()) == counts


def test_long_texts_are_cut_where_both_have_room_and_said(caplog: pytest.LogCaptureFixture) -> None:
    rows, counts = align_texts(CORPUS, WORDPIECE, BPE, 12, teacher_max_length=16)
    assert len(rows) == len(CORPUS)
    assert all(len(row["input_ids"]) <= 12 and len(row["teacher_input_ids"]) <= 16 for row in rows)
    assert all(WORDPIECE.sep_token_id not in row["input_ids"] for row in rows)  # the texts do not end there
    kept = [WORDPIECE.decode(row["input_ids"], skip_special_tokens=True).replace(" ", "") for row in rows]
    assert 0 < counts.cut_characters < sum(map(len, CORPUS))
    for text, part in zip(CORPUS[:3], kept, strict=False):
        assert text.lower().replace(" ", "").startswith(part)


def test_long_texts_go_on_in_further_rows() -> None:
    rows, counts = align_texts(CORPUS[:3], WORDPIECE, BPE, 12, long="split")
    assert counts.cut_characters == 0
    whole = "".join(BPE.decode(row["teacher_input_ids"], skip_special_tokens=True) for row in rows)
    assert whole == "".join(CORPUS[:3])
    assert sum(BPE.eos_token_id in row["teacher_input_ids"] for row in rows) == 3


def test_a_span_longer_than_a_row_is_left_out_and_counted() -> None:
    text = "the dog " + "ש" * 30 + " the dog"
    rows, counts = align_texts([text], WORDPIECE, BPE, 12, long="split")
    kept = sum(len(BPE.decode(row["teacher_input_ids"], skip_special_tokens=True)) for row in rows)
    assert counts.cut_characters == len(text) - kept > 0


def test_batches_are_padded_on_each_side_by_itself() -> None:
    rows, _ = align_texts(CORPUS, UNIGRAM, BPE, 200)
    batch = AlignedPadding(UNIGRAM, BPE)(list(rows))
    for side, tokens in (("", UNIGRAM), ("teacher_", BPE)):
        ids, mask = batch[f"{side}input_ids"], batch[f"{side}attention_mask"]
        assert ids.shape == mask.shape == batch[f"{side}labels"].shape == batch[f"{side or 'student_'}spans"].shape
        assert mask.sum(1).tolist() == [len(row[f"{side}input_ids"]) for row in rows]
        assert (ids[mask == 0] == tokens.pad_token_id).all()
        assert (batch[f"{side}labels"][mask == 0] == IGNORED).all()
        assert (batch[f"{side or 'student_'}spans"][mask == 0] == -1).all()
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())


def test_what_cannot_be_made_is_refused() -> None:
    with pytest.raises(DataError, match="no text is left"):
        align_texts(["", " \n"], WORDPIECE, BPE, 20)
    with pytest.raises(DataError, match="max_length 2 leaves the student no room"):
        align_texts(["a"], WORDPIECE, BPE, 2)
    with pytest.raises(DataError, match="text 2 is a NoneType"):
        align_texts(["a", None], WORDPIECE, BPE, 20)  # type: ignore[list-item]
    with pytest.raises(DataError, match="long is 'cutt'"):
        align_texts(["a"], WORDPIECE, BPE, 20, long="cutt")
    with pytest.raises(DataError, match="teacher's tokenizer has no padding token"):
        AlignedPadding(WORDPIECE, PreTrainedTokenizerFast(tokenizer_object=BPE.backend_tokenizer))
