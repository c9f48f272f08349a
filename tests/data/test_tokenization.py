"""Tokenising a split."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import BertTokenizer, DistilBertTokenizer, PreTrainedTokenizerFast

from hf_distill.data.tokenization import tokenize
from hf_distill.errors import DataError

VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"])}
CLS, SEP, A, B, C, D = 2, 3, 5, 6, 7, 8


def bert(**settings: Any) -> BertTokenizer:
    return BertTokenizer(vocab=VOCABULARY, **settings)


def pairs(**columns: list[Any]) -> Dataset:
    return Dataset.from_dict({"first": ["a b c d", "a"], "second": ["b c", ""], "label": [1, 0], **columns})


def test_one_text(caplog: pytest.LogCaptureFixture) -> None:
    encoded = tokenize(pairs(), bert(), ["first"])
    assert encoded.to_dict() == {
        "input_ids": [[CLS, A, B, C, D, SEP], [CLS, A, SEP]],
        "token_type_ids": [[0] * 6, [0] * 3],
        "attention_mask": [[1] * 6, [1] * 3],
        "length": [6, 3],
        "labels": [1, 0],
    }
    assert not caplog.records


def test_a_pair_is_cut_from_the_longer_text() -> None:
    encoded = tokenize(pairs(), bert(), ["first", "second"], max_length=7)
    assert encoded["input_ids"][:] == [[CLS, A, B, SEP, B, C, SEP], [CLS, A, SEP, SEP]]
    assert encoded["token_type_ids"][:] == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1]]
    assert encoded["length"][:] == [7, 4]


def test_a_distilbert_student_of_a_bert_teacher_keeps_its_segments() -> None:
    student = DistilBertTokenizer(vocab=VOCABULARY)
    assert "token_type_ids" not in tokenize(pairs(), student, ["first", "second"]).column_names
    encoded = tokenize(pairs(), student, ["first", "second"], input_names=bert().model_input_names)
    assert encoded["token_type_ids"][:] == tokenize(pairs(), bert(), ["first", "second"])["token_type_ids"][:]


def test_an_objective_is_told_the_special_tokens() -> None:
    assert "special_tokens_mask" not in tokenize(pairs(), bert(), ["first"]).column_names
    encoded = tokenize(pairs(), bert(), ["first", "second"], input_names={"special_tokens_mask"})
    assert encoded["special_tokens_mask"][:] == [[1, 0, 0, 0, 0, 1, 0, 0, 1], [1, 0, 1, 1]]


@pytest.mark.parametrize(
    ("given", "own", "models", "expected"),
    [
        (None, None, (), 6),
        (None, None, (None,), 6),
        (4, None, (), 4),
        (None, 5, (), 5),
        (None, 5, (4, None), 4),
        (3, 5, (4,), 3),
    ],
)
def test_the_least_limit_counts(given: int | None, own: int | None, models: Any, expected: int) -> None:
    tokenizer = bert(model_max_length=own) if own else bert()
    assert tokenize(pairs(), tokenizer, ["first"], max_length=given, position_limits=models)["length"][0] == expected


def test_a_length_beyond_the_limits_is_cut_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        encoded = tokenize(pairs(), bert(model_max_length=5), ["first"], max_length=9, position_limits=[4])
    assert encoded["length"][0] == 4
    assert [record.getMessage() for record in caplog.records] == [
        "max_length 9 is cut to 4, the limit of the tokenizer or of a model."
    ]


def test_labels_keep_their_meaning() -> None:
    features = Features({"first": Value("string"), "label": ClassLabel(names=["x", "y"])})
    named = Dataset.from_dict({"first": ["a", "b"], "label": [1, 0]}, features)
    assert tokenize(named, bert(), ["first"])["labels"][:] == [1, 0]
    assert tokenize(pairs(label=[0.5, 2.0]), bert(), ["first"])["labels"][:] == [0.5, 2.0]
    assert "labels" not in tokenize(pairs().remove_columns("label"), bert(), ["first"]).column_names
    assert tokenize(pairs(label=[-100, 1]), bert(), ["first"])["labels"][:] == [-100, 1]


def test_what_counts_for_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no rows"):
        tokenize(pairs().select([]), bert(), ["first"])
    with pytest.raises(DataError, match="every label of the split is -100"):
        tokenize(pairs(label=[-100, -100]), bert(), ["first"])
    with pytest.raises(DataError, match="no column 'third'; the split has first, second, label"):
        tokenize(pairs(), bert(), ["first", "third"])
    with pytest.raises(DataError, match="3 tokens leave no room for text beside the 3 special ones"):
        tokenize(pairs(), bert(), ["first", "second"], max_length=3)
    with pytest.raises(DataError, match="0 tokens leave no room"):
        tokenize(pairs(), bert(), ["first"], position_limits=[0])


def test_an_empty_text_needs_special_tokens() -> None:
    plain = Tokenizer(WordLevel(VOCABULARY, unk_token="[UNK]"))
    plain.pre_tokenizer = WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]")
    assert tokenize(pairs(), tokenizer, ["first"])["length"][:] == [4, 1]
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\) has an empty text"):
        tokenize(pairs(), tokenizer, ["second"])
