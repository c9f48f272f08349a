"""Lists of tokens with tags: what is accepted, what is refused, and which word piece is labelled."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_distill.data.files import read
from hf_distill.data.token_classification import TaggedTokens, tagged_tokens, tokenize_words
from hf_distill.errors import DataError
from tests import tiny_runs

NAMES = ("O", "B-PER", "I-PER", "B-LOC")
WORDS = (*tiny_runs.SPECIAL, "ann", "bonn", "##bo", "##nn", "in", "saw")


def loaded(folder: Path, *rows: dict[str, Any], names: Any = NAMES, split: str = "train") -> TaggedTokens:
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    needed = (["tokens"], ["tags"]) if split == "test" else (["tokens", "tags"], [])
    return tagged_tokens({split: read(path, *needed)}, "tokens", "tags", names)


def sentence(tokens: str, *tags: Any) -> dict[str, Any]:
    return {"tokens": tokens.split(), "tags": list(tags)}


# ---- rows ----


def test_tags_are_names_or_their_numbers(tmp_path: Path) -> None:
    for rows in ([sentence("ann saw bonn", 1, 0, 3)], [sentence("ann saw bonn", "B-PER", "O", "B-LOC")]):
        found = loaded(tmp_path, *rows)
        assert found.splits["train"]["tags"][:] == [[1, 0, 3]]
        assert found.splits["train"].features["tags"].feature.names == list(NAMES)
    found = loaded(tmp_path, sentence("ann saw bonn", "B-PER", "O", "B-LOC"), names=None)
    assert found.tag_names == ("B-LOC", "B-PER", "O")
    assert found.splits["train"]["tags"][:] == [[1, 2, 0]]


def test_rows_without_a_token_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = loaded(tmp_path, sentence("ann", 1), sentence(""), sentence("saw", 0)).splits["train"]
    assert found["tokens"][:] == [["ann"], ["saw"]]
    assert "1 of 3 rows have no token" in caplog.text
    with pytest.raises(DataError, match="none of the 1 rows has a token"):
        loaded(tmp_path, sentence(""))


def test_a_test_without_tags_is_unlabelled(tmp_path: Path) -> None:
    assert loaded(tmp_path, {"tokens": ["ann"]}, split="test").splits["test"].column_names == ["tokens"]
    assert loaded(tmp_path, {"tokens": ["ann"], "tags": None}, split="test").splits["test"].column_names == ["tokens"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (sentence("ann saw", 1), "1 tags for 2 tokens"),
        (sentence("ann", 4), r"unknown tag 4 \(int\); the numbers go from 0 to 3"),
        (sentence("ann", -1), "the numbers go from 0 to 3"),
        (sentence("ann", "B-PRE"), "unknown tag 'B-PRE' .*did you mean 'B-PER'"),
        (sentence("ann", True), "the tag is True"),
        (sentence("ann", 1.0), "the tag is 1.0"),
        (sentence("ann", None), "the tag is null"),
        ({"tokens": "ann", "tags": [1]}, r"column 'tokens': holds 'ann' \(str\), expected a list"),
        ({"tokens": [3], "tags": [1]}, r"holds 3 \(int\) in its list, expected text"),
        ({"tokens": ["\ud800"], "tags": [1]}, "surrogates not allowed"),
        ({"tokens": ["ann"], "tags": None}, "column 'tags': holds null, expected a list"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        loaded(tmp_path, sentence("ann", 1), wrong)
    assert "train.jsonl, line 2" in str(caught.value)


def test_numbers_need_names_and_names_are_texts(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"line 1, column 'tags': the tag is the number 1, .*give --class_names \(tag_names in a recipe\)",
    ):
        loaded(tmp_path, sentence("ann", 1), names=None)
    with pytest.raises(DataError, match="holds an empty tag; write O"):
        loaded(tmp_path, sentence("ann", ""), names=None)
    with pytest.raises(DataError, match=r"'O' \(str\) is not a name of its own"):
        loaded(tmp_path, sentence("ann", 1), names=["O", "O"])


# ---- word pieces ----


def tokenized(tokens: str, *tags: int, **settings: Any) -> dict[str, Any]:
    columns = {"tokens": [tokens.split()], **({"tags": [list(tags)]} if tags else {})}
    options = {"max_length": 12, **settings}
    (row,) = tokenize_words(Dataset.from_dict(columns), tiny_runs.tokenizer(WORDS), NAMES, **options)
    return dict(row)


def test_the_first_piece_of_a_token_is_labelled() -> None:
    """annbonn is ann ##bo ##nn."""
    row = tokenized("annbonn saw ann", 1, 0, 3)
    assert row["input_ids"] == [2, 5, 7, 8, 10, 5, 3]
    assert row["labels"] == [-100, 1, -100, -100, 0, 3, -100]
    assert row["word_starts"] == [1, 4, 5]
    assert row["special_tokens_mask"] == [1, 0, 0, 0, 0, 0, 1]
    assert row["length"] == 7


def test_all_pieces_are_labelled_where_asked_for() -> None:
    """A later piece is inside of what its token begins; of LOC there is no I-."""
    row = tokenized("annbonn annbonn saw", 1, 3, 0, label_all_tokens=True)
    assert row["labels"] == [-100, 1, 2, 2, 3, 3, 3, 0, -100]
    assert row["word_starts"] == [1, 4, 7]


def test_what_is_cut_off_has_no_start_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        row = tokenized("ann saw annbonn in bonn", 1, 0, 3, 0, 3, max_length=6)
    assert row["labels"] == [-100, 1, 0, 3, -100, -100]
    assert row["word_starts"] == [1, 2, 3, -1, -1]
    assert "2 tokens are cut off at 6 word pieces" in caplog.text


def test_a_token_that_the_tokenizer_drops_has_no_start() -> None:
    columns = {"tokens": [["ann", "\u200b", "saw"]], "tags": [[1, 3, 0]]}
    (row,) = tokenize_words(Dataset.from_dict(columns), tiny_runs.tokenizer(WORDS), NAMES, max_length=12)
    assert row["word_starts"] == [1, -1, 2]
    assert row["labels"] == [-100, 1, 0, -100]


def test_only_what_is_asked_for_is_there() -> None:
    row = tokenized("ann saw")
    assert set(row) == {"input_ids", "attention_mask", "special_tokens_mask", "length", "word_starts"}
    assert tokenized("ann saw", input_names={"token_type_ids"})["token_type_ids"] == [0] * 4


def test_what_leaves_no_room_is_refused() -> None:
    with pytest.raises(DataError, match="2 tokens leave no room"):
        tokenized("ann", max_length=2)


def test_a_tokenizer_that_would_glue_tokens_together_is_refused() -> None:
    """Bytes to tokens, as RoBERTa and GPT-2 do: a blank is part of the token behind it."""
    made = Tokenizer(models.BPE({"a": 0, "Ġ": 1, "[PAD]": 2}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    rows = Dataset.from_dict({"tokens": [["a", "a"]]})
    glued = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]")
    with pytest.raises(DataError, match="add_prefix_space=True"):
        tokenize_words(rows, glued, NAMES, max_length=8)
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    apart = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="[PAD]", add_prefix_space=True)
    assert tokenize_words(rows, apart, NAMES, max_length=8)["input_ids"][:] == [[1, 0, 1, 0]]
