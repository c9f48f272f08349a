"""Rows in the form of SQuAD: what is accepted, what is refused, and where answers stand among the tokens."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_distill.data.files import read
from hf_distill.data.question_answering import ANSWERS, COLUMNS, Questions, questions_of, split_by_context
from hf_distill.data.windows import MAX_QUESTION, windows
from hf_distill.errors import DataError
from tests import tiny_runs
from tests.tokenizers_of_kinds import tokenizer

CONTEXT = "the film was very good and the plot was quite dull"


def row(number: int, context: str = CONTEXT, *answers: str, **more: Any) -> dict[str, Any]:
    found = {"text": list(answers), "answer_start": [context.index(answer) for answer in answers]}
    return {
        "id": f"q{number}",
        "title": "t",
        "context": context,
        "question": "was the film good",
        "answers": found,
    } | more


def loaded(folder: Path, *rows: dict[str, Any], negative: bool = False, split: str = "train") -> Questions:
    path = folder / f"{split}.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows), encoding="utf-8")
    labels: tuple[list[str], list[str]] = ([*COLUMNS], [ANSWERS]) if split == "test" else ([*COLUMNS, ANSWERS], [])
    return questions_of({split: read(path, *labels)}, version_2_with_negative=negative)


# ---- rows ----


def test_both_forms_of_answers_are_read(tmp_path: Path) -> None:
    nested = row(2) | {"answers": [{"text": "dull", "answer_start": CONTEXT.index("dull")}]}
    found = loaded(tmp_path, row(1, CONTEXT, "very good", "good"), nested).splits["train"]
    assert found["id"][:] == ["q1", "q2"]
    assert found["answers"][:] == [
        {"text": ["very good", "good"], "answer_start": [13, 18]},
        {"text": ["dull"], "answer_start": [46]},
    ]
    assert found.column_names == ["id", "context", "question", "answers"]


def test_a_test_without_answers_is_unlabelled(tmp_path: Path) -> None:
    bare = {name: row(1)[name] for name in COLUMNS}
    assert loaded(tmp_path, bare, split="test").splits["test"].column_names == [*COLUMNS]
    assert loaded(tmp_path, bare | {"answers": None}, split="test").splits["test"].column_names == [*COLUMNS]


def test_questions_without_an_answer_are_the_second_versions(tmp_path: Path) -> None:
    found = loaded(tmp_path, row(1), row(2, CONTEXT, "good"), negative=True).splits["train"]
    assert [answers["text"] for answers in found["answers"]] == [[], ["good"]]
    with pytest.raises(DataError, match=r"train\.jsonl, line 1, column 'answers'.*no answer.*version_2_with_negative"):
        loaded(tmp_path, row(1), row(2, CONTEXT, "good"))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"answers": {"text": ["good"], "answer_start": [17]}}, "'good' is not at answer_start 17, .* has ' goo'"),
        ({"answers": {"text": ["good"], "answer_start": [-33]}}, "is not at answer_start -33"),
        ({"answers": {"text": ["dull"], "answer_start": [900]}}, "is not at answer_start 900, .* has ''"),
        ({"answers": {"text": ["good"], "answer_start": []}}, "equally long"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "is no text at a character"),
        ({"answers": {"text": ["the"], "answer_start": ["0"]}}, "is no text at a character"),
        ({"answers": {"text": ["t"], "answer_start": [False]}}, "is no text at a character"),
        ({"answers": "good"}, r"holds 'good' \(str\), expected \{text"),
        ({"answers": None}, "holds null, expected"),
        ({"answers": [{"text": "good"}]}, "is no text at a character"),
        ({"context": " "}, "column 'context': is empty"),
        ({"context": 3}, r"column 'context': holds 3 \(int\)"),
        ({"question": None}, "column 'question': holds null"),
        ({"id": "q1"}, "'q1' .* stands in line 1 as well"),
        ({"id": ""}, "column 'id': holds ''"),
        ({"id": 1.5}, "column 'id': holds 1.5"),
        ({"answers": {"text": [" "], "answer_start": [3]}}, "the answer ' ' .* is no text"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        loaded(tmp_path, row(1, CONTEXT, "good"), row(2, CONTEXT, "dull") | wrong)
    assert "train.jsonl, line 2" in str(caught.value)


def test_a_missing_column_is_told(tmp_path: Path) -> None:
    bare = {name: row(1)[name] for name in COLUMNS}
    with pytest.raises(DataError, match="no column 'answers'"):
        loaded(tmp_path, bare)


def test_splits_share_no_context() -> None:
    contexts = [f"context {i // 3}" for i in range(60)]
    whole = Dataset.from_dict({"context": contexts, "id": [str(i) for i in range(60)]})
    parts = split_by_context(whole, 0.2, 0.3, seed=1)
    found = {name: set(part["context"]) for name, part in parts.items()}
    assert {name: len(contexts) for name, contexts in found.items()} == {"train": 10, "validation": 4, "test": 6}
    assert len(set.union(*found.values())) == 20
    assert sum(map(len, parts.values())) == 60
    assert parts["train"]["id"][:] == sorted(parts["train"]["id"][:], key=int)
    assert split_by_context(whole, 0.2, 0.3, seed=1)["test"]["id"][:] == parts["test"]["id"][:]
    assert split_by_context(whole, 0.2, 0.3, seed=2)["test"]["id"][:] != parts["test"]["id"][:]
    assert set(split_by_context(whole, 0.2, 0.0, seed=1)) == {"train", "validation"}
    with pytest.raises(DataError, match=r"0\.01 of 20 contexts leaves 'validation' empty"):
        split_by_context(whole, 0.01, 0.0, seed=1)


# ---- windows ----


def read_windows(*rows: dict[str, Any], **settings: Any) -> list[dict[str, Any]]:
    columns = {name: [each[name] for each in rows] for name in (*COLUMNS, ANSWERS) if name in rows[0]}
    options = {"max_length": 32, "doc_stride": 2, "with_offsets": True, **settings}
    return list(windows(Dataset.from_dict(columns), tiny_runs.tokenizer(), **options))


def words(window: dict[str, Any]) -> list[str]:
    return tiny_runs.tokenizer().convert_ids_to_tokens(window["input_ids"])


def test_a_short_context_is_one_window_and_the_answer_its_tokens() -> None:
    (window,) = read_windows(row(1, CONTEXT, "very good"))
    question = ["[CLS]", "was", "the", "film", "good", "[SEP]"]
    assert words(window) == [*question, *CONTEXT.split(), "[SEP]"]
    found = words(window)[window["start_positions"] : window["end_positions"] + 1]
    assert found == ["very", "good"]
    assert (window["example"], window["length"], window["no_answer"], window["context_start"]) == (0, 18, 0, 6)
    spans = zip(window["offset_starts"], window["offset_ends"], strict=True)
    assert [CONTEXT[start:end] for start, end in spans] == CONTEXT.split()


def test_a_long_context_is_cut_into_windows_that_overlap() -> None:
    """Of 12 tokens 7 are question and special ones, 5 are context, 2 of them shared with the window before."""
    found = read_windows(row(1, CONTEXT, "plot was"), max_length=12)
    parts = [words(window)[6:-1] for window in found]
    text = CONTEXT.split()
    assert parts == [text[0:5], text[3:8], text[6:11]]
    answers = [(window["start_positions"], window["end_positions"]) for window in found]
    assert answers == [(0, 0), (0, 0), (6 + 1, 6 + 2)]  # the second window holds "plot" alone
    assert [window["example"] for window in found] == [0, 0, 0]
    assert [window["offset_starts"][0] for window in found] == [0, 13, 27]


def test_rows_are_numbered_over_batches() -> None:
    rows = [row(i, CONTEXT, "good") for i in range(1200)]
    found = [window["example"] for window in read_windows(*rows)]
    assert found == list(range(1200))


def test_the_first_answer_is_the_target_and_no_answer_the_classification_token() -> None:
    first, none = read_windows(row(1, CONTEXT, "dull", "good"), row(2))
    assert words(first)[first["start_positions"]] == "dull"
    assert (none["start_positions"], none["end_positions"]) == (0, 0)


def test_an_answer_inside_words_is_the_words_it_touches() -> None:
    start = CONTEXT.index("ery go")
    (window,) = read_windows(row(1) | {"answers": {"text": ["ery go"], "answer_start": [start]}})
    assert words(window)[window["start_positions"] : window["end_positions"] + 1] == ["very", "good"]


@pytest.mark.parametrize("answer", [" very good ", " the", "dull ", "the ", " dull"])
def test_blanks_around_an_answer_touch_no_word(answer: str) -> None:
    context = f" {CONTEXT} "
    start = context.index(answer)
    (window,) = read_windows(row(1, context) | {"answers": {"text": [answer], "answer_start": [start]}})
    assert words(window)[window["start_positions"] : window["end_positions"] + 1] == answer.split()


def byte_level() -> PreTrainedTokenizerFast:
    """A token for each byte, so that several stand at one character."""
    special = tiny_runs.SPECIAL
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    made = Tokenizer(models.BPE(vocabulary, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return PreTrainedTokenizerFast(tokenizer_object=made, cls_token="[CLS]", sep_token="[SEP]")


@pytest.mark.parametrize("answer", ["\U0001f600", "\u00e9", "caf\u00e9", "\u00e9 \U0001f600"])
def test_all_tokens_of_a_character_belong_to_the_answer(answer: str) -> None:
    example = row(1, "a caf\u00e9 \U0001f600 is", answer, question="q")
    columns = {name: [example[name]] for name in (*COLUMNS, ANSWERS)}
    (window,) = windows(Dataset.from_dict(columns), byte_level(), max_length=64, doc_stride=2)
    found = window["input_ids"][window["start_positions"] : window["end_positions"] + 1]
    assert byte_level().decode(found) == answer


def test_only_what_is_asked_for_is_there() -> None:
    unlabelled = {name: row(1)[name] for name in COLUMNS}
    (window,) = read_windows(unlabelled, with_offsets=False)
    assert set(window) == {"input_ids", "attention_mask", "length", "example"}
    (window,) = read_windows(unlabelled, input_names={"token_type_ids"}, with_offsets=False)
    assert window["token_type_ids"] == [0] * 6 + [1] * 12
    (window,) = read_windows(unlabelled, input_names={"special_tokens_mask"}, with_offsets=False)
    ids = window["input_ids"]
    assert window["special_tokens_mask"] == [int(each in (ids[0], ids[-1])) for each in ids]


def test_a_long_question_is_cut_to_whole_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (*_, window) = read_windows(row(1, CONTEXT, "good", question="  good film " * 10), max_length=12)
    found = words(window)
    assert found[: found.index("[SEP]")] == ["[CLS]", *["good", "film"] * 3]
    assert "a question of 20 tokens is cut to 6" in caplog.text


def test_what_leaves_no_room_is_refused() -> None:
    with pytest.raises(DataError, match="12 tokens leave no room for a question beside a doc_stride of 8"):
        read_windows(row(1), max_length=12, doc_stride=8)


def marking_blanks(form: str) -> PreTrainedTokenizerFast:
    """A tokenizer to which a text is one word, in the forms of those for Llama 2, Gemma and Mistral; or, with `words`,
    several."""
    made = Tokenizer.from_str(tokenizer("unigram").backend_tokenizer.to_str())
    if form == "blanks become marks":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
        made.pre_tokenizer = None
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(split=form == "words")
    around = [(name, made.token_to_id(name)) for name in ("<s>", "</s>")]
    template = {"single": "<s> $A </s>", "pair": "<s> $A </s> $B </s>", "special_tokens": around}
    made.post_processor = processors.TemplateProcessing(**template)
    return PreTrainedTokenizerFast(tokenizer_object=made, cls_token="<s>", sep_token="</s>", pad_token="<pad>")


def question_ids(question: str, tokenizer: PreTrainedTokenizerFast, max_length: int = 128) -> list[int]:
    """The tokens of the question that stand in its window, which has a special token before and behind it."""
    columns = {"id": ["q"], "context": ["the dog does not mind"], "question": [question]}
    (window,) = windows(
        Dataset.from_dict(columns), tokenizer, max_length=max_length, doc_stride=2, with_offsets=True
    )  # fmt: skip
    found: list[int] = window["input_ids"][1 : window["context_start"] - 1]
    return found


@pytest.mark.parametrize("form", ["blanks become marks", "marks that do not split", "words"])
def test_a_long_question_is_cut_behind_the_last_word_that_fits(form: str) -> None:
    made = marking_blanks(form)
    question = "what does the student answer as the large teacher answers and the dog does not mind the text " * 3
    asked = question.split()
    tokens = [made(" ".join(asked[:n]), add_special_tokens=False)["input_ids"] for n in range(len(asked) + 1)]
    fitting = [ids for ids in tokens if len(ids) <= MAX_QUESTION]
    assert len(tokens[-1]) > MAX_QUESTION > len(fitting[-1]) > MAX_QUESTION - 12
    assert question_ids(question, made) == fitting[-1]


@pytest.mark.parametrize("form", ["blanks become marks", "marks that do not split", "words"])
def test_a_long_question_of_one_word_is_cut_behind_the_last_token_that_fits(form: str) -> None:
    made, question = marking_blanks(form), "wherearethestudents" * 10
    whole = made(question, add_special_tokens=False)["input_ids"]
    assert len(whole) > MAX_QUESTION
    assert question_ids(question, made) == whole[:MAX_QUESTION]


def test_a_long_question_is_not_cut_inside_a_character() -> None:
    """Each has three tokens, and 64 have room for 21 of them."""
    expected = byte_level()("\u3042" * 21, add_special_tokens=False)["input_ids"]
    assert len(expected) == 63
    assert question_ids("\u3042" * 40, byte_level()) == expected
