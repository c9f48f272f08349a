"""Documents to rows."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_distill.data import packing
from hf_distill.data.packing import PACKINGS, Layout, Packer, chunks, token_ids
from hf_distill.errors import DataError
from tests import tiny_runs

CLS, SEP = -1, -2


def packed(packing: str, *lengths: int, max_length: int = 7) -> list[list[int]]:
    """Rows of documents 10, 11, 12 …, 20, 21, …: the tens are the document, the ones the place in it."""
    packer = Packer(Layout((CLS,), (SEP,), (SEP,), max_length, packing))
    rows = [row for i, length in enumerate(lengths) for row in packer.add([10 * (i + 1) + j for j in range(length)])]
    return [*rows, *packer.rest()]


def test_full_rows_run_on_across_documents() -> None:
    assert packed("full", 3, 4, 2) == [
        [CLS, 10, 11, 12, SEP, 20, SEP],
        [CLS, 21, 22, 23, SEP, 30, SEP],
        [CLS, 31, SEP],
    ]


def test_a_full_row_is_a_token_short_where_a_document_would_begin_last() -> None:
    assert packed("full", 4, 2) == [[CLS, 10, 11, 12, 13, SEP], [CLS, 20, 21, SEP]]
    assert packed("full", 5, 2) == [[CLS, 10, 11, 12, 13, 14, SEP], [CLS, 20, 21, SEP]]


def test_whole_documents_stay_together_where_they_can() -> None:
    assert packed("whole", 3, 2, 1, 3) == [
        [CLS, 10, 11, 12, SEP],
        [CLS, 20, 21, SEP, 30, SEP],
        [CLS, 40, 41, 42, SEP],
    ]
    assert packed("whole", 2, 2) == [[CLS, 10, 11, SEP, 20, 21, SEP]]
    assert packed("whole", 7, 1) == [[CLS, 10, 11, 12, 13, 14, SEP], [CLS, 15, 16, SEP, 20, SEP]]


def test_one_document_a_row() -> None:
    assert packed("none", 1, 6, 2) == [
        [CLS, 10, SEP],
        [CLS, 20, 21, 22, 23, 24, SEP],
        [CLS, 25, SEP],
        [CLS, 30, 31, SEP],
    ]


@pytest.mark.parametrize("packing", PACKINGS)
def test_no_token_is_lost_or_doubled(packing: str) -> None:
    lengths = [i * 7 % 13 for i in range(40)]
    rows = packed(packing, *lengths, max_length=9)
    found = [token for row in rows for token in row if token not in (CLS, SEP)]
    assert found == [10 * (i + 1) + j for i, length in enumerate(lengths) for j in range(length)]
    assert all(row[0] == CLS and row[-1] == SEP and 3 <= len(row) <= 9 for row in rows)
    assert all(row[i : i + 2] != [CLS, SEP] and row[i : i + 2] != [SEP, SEP] for row in rows for i in range(8))
    if packing == "full":
        assert all(len(row) >= 8 for row in rows[:-1])


def test_the_layout_is_read_off_the_tokenizer() -> None:
    tokenizer = tiny_runs.tokenizer()
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert Layout.of(tokenizer, 16) == Layout((cls,), (sep,), (sep,), 16, "full")
    assert Layout.of(tokenizer, 16).body == 14
    row = list(Packer(Layout.of(tokenizer, 16)).add(token_ids(tokenizer, ["good film"])[0]))
    assert row == []
    packer = Packer(Layout.of(tokenizer, 16, "none"))
    assert [*packer.add(token_ids(tokenizer, ["good film"])[0]), *packer.rest()] == [
        tokenizer("good film")["input_ids"]
    ]


def test_layouts_that_cannot_be() -> None:
    tokenizer = tiny_runs.tokenizer()
    with pytest.raises(DataError, match="packing is 'ful'; did you mean 'full'"):
        Layout.of(tokenizer, 16, "ful")
    with pytest.raises(DataError, match="max_length 3 leaves no room for text beside 2 special"):
        Layout.of(tokenizer, 3)
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="b")))
    with pytest.raises(DataError, match="neither sep_token nor eos_token"):
        Layout.of(bare, 16)
    assert Layout.of(bare, 16, "none") == Layout((), (), (), 16, "none")
    silent = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"b": 0}, [])))
    with pytest.raises(DataError, match="reads 'a' as"):
        Layout.of(silent, 16, "none")


def test_chunks_are_bounded_in_documents_and_in_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "CHUNK_DOCUMENTS", 3)
    monkeypatch.setattr(packing, "CHUNK_CHARACTERS", 10)
    documents = ["a", "b", "c", "d", "e" * 9, "f", "g"]
    assert list(chunks(documents)) == [["a", "b", "c"], ["d", "e" * 9], ["f", "g"]]
    assert list(chunks([])) == []
