"""Conversations in two chat templates."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hf_distill.data.aligned_messages import align_messages
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED
from tests.tokenizers_of_kinds import tokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
PLAIN = "[CLS] {% for m in messages %}{{ m['role'] }} : {{ m['content'] | trim }} [SEP] {% endfor %}"
OPEN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
TRIMMED = CHATML.replace("m['content']", "m['content'] | trim")
SPACED = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }} <|end|>{% endfor %}"

TALK = [
    {"role": "user", "content": "assistant"},
    {"role": "assistant", "content": " The quick dog. "},
    {"role": "user", "content": "and the fox?"},
    {"role": "assistant", "content": "the lazy fox"},
]


def with_template(kind: str, template: str | None) -> Any:
    made = copy.deepcopy(tokenizer(kind))
    made.chat_template = template
    return made


OURS, THEIRS = with_template("wordpiece", PLAIN), with_template("bpe", CHATML)
END = THEIRS.convert_tokens_to_ids("<|end|>")


def said(row: dict[str, Any], side: str, tokens: Any) -> list[str]:
    """The text of each run of tokens that count."""
    prefix = "" if side == "student" else "teacher_"
    runs, last = [], IGNORED
    for label in row[f"{prefix}labels"]:
        if label != IGNORED:
            runs = [*runs, []] if last == IGNORED else runs
            runs[-1].append(label)
        last = label
    return [tokens.decode(run) for run in runs]


def test_what_the_assistant_says_counts_and_is_aligned_with_the_ends_of_its_turns() -> None:
    rows, counts = align_messages([TALK], OURS, THEIRS, 200)
    (row,) = rows
    assert (
        row["input_ids"] == OURS(OURS.apply_chat_template(TALK, tokenize=False), add_special_tokens=False)["input_ids"]
    )
    assert THEIRS.decode(row["teacher_input_ids"]) == THEIRS.apply_chat_template(TALK, tokenize=False)
    assert said(row, "student", OURS) == ["the quick dog. [SEP]", "the lazy fox [SEP]"]
    assert said(row, "teacher", THEIRS) == ["The quick dog. <|end|>", "the lazy fox<|end|>"]
    spans: dict[int, list[str]] = {}
    for side, ids, tokens in (("student", "input_ids", OURS), ("teacher", "teacher_input_ids", THEIRS)):
        for span, token in zip(row[f"{side}_spans"], row[ids], strict=True):
            if span >= 0:
                spans.setdefault(span, []).append(tokens.convert_ids_to_tokens(token))
    assert sorted(spans) == list(range(len(spans)))
    assert spans[max(spans)] == ["[SEP]", "<|end|>"]
    assert counts.spans == len(spans)
    assert counts.student_unaligned == 0
    assert counts.teacher_unaligned == 1  # the space in front of the first end


@pytest.mark.parametrize(
    ("ours", "theirs", "answer", "text", "alone"),
    [
        (SPACED, CHATML, "the lazy fox", " the lazy fox <|end|>", (1, 0)),
        (SPACED, SPACED, "the lazy fox", " the lazy fox <|end|>", (1, 1)),
        (CHATML, TRIMMED, "the lazy fox\n", "the lazy fox\n<|end|>", (1, 0)),
        (TRIMMED, CHATML, "the lazy fox\n \n", "the lazy fox<|end|>", (0, 3)),
        (SPACED, OPEN, "the lazy fox", " the lazy fox <|end|>", (2, 0)),
    ],
)
def test_the_end_of_a_turn_behind_white_space_counts(
    ours: str, theirs: str, answer: str, text: str, alone: tuple[int, int]
) -> None:
    student = with_template("bpe", ours)
    talk = [TALK[0], {"role": "assistant", "content": answer}]
    (row,), counts = align_messages([talk], student, with_template("bpe", theirs), 200)
    assert said(row, "student", student) == [text]
    assert (counts.student_unaligned, counts.teacher_unaligned) == alone
    is_shared = theirs != OPEN
    assert (row["student_spans"][row["labels"].index(END)] >= 0) == is_shared


def test_white_space_in_one_token_with_the_end_of_an_answer_counts() -> None:
    student = with_template("bpe", CHATML)
    student.add_tokens(["fox\n"])
    (row,), counts = align_messages(
        [[TALK[0], {"role": "assistant", "content": "the lazy fox\n"}]], student, with_template("bpe", TRIMMED), 200
    )
    assert said(row, "student", student) == ["the lazy fox\n<|end|>"]
    assert counts.student_unaligned == 1


def test_only_white_space_parts_an_answer_from_the_end_of_its_turn() -> None:
    student = with_template("bpe", CHATML.replace("<|end|>", " ! <|end|>"))
    (row,), _ = align_messages([TALK[2:]], student, THEIRS, 200)
    assert said(row, "student", student) == ["the lazy fox"]


def test_a_template_without_ends_of_turns_leaves_those_of_the_other_side_over() -> None:
    rows, counts = align_messages([TALK[2:]], OURS, with_template("bpe", OPEN), 200)
    (row,) = rows
    assert said(row, "student", OURS) == ["the lazy fox [SEP]"]
    assert said(row, "teacher", THEIRS) == [" the lazy fox"]  # its first token has the space in front of it
    assert row["student_spans"][-1] == -1
    assert counts.student_unaligned == 1
    assert counts.teacher_unaligned == 0


def test_long_conversations_are_cut_or_left_out_and_counted() -> None:
    whole, _ = align_messages([TALK], OURS, THEIRS, 200)
    length = len(whole[0]["teacher_input_ids"]) - 8
    rows, counts = align_messages(
        [TALK, [{"role": "user", "content": "the dog " * 40}, TALK[1]]], OURS, THEIRS, length
    )
    (row,) = rows
    assert len(row["teacher_input_ids"]) <= length
    assert row["teacher_spans"][-1] >= 0
    assert row["student_spans"][-1] == row["teacher_spans"][-1]
    assert counts.texts_left_out == 1
    assert 0 < counts.cut_characters < len("the lazy fox")


@pytest.mark.parametrize(
    ("talk", "template", "text"),
    [
        (TALK, None, "teacher's tokenizer has no chat template"),
        (TALK[:1], CHATML, "conversation 1: the assistant says nothing"),
        ([{"role": "assistant"}], CHATML, "conversation 1: a message is"),
        (
            TALK,
            "{{ raise_exception('no system.') }}",
            r"the teacher's chat template does not take it: no system\. Change .* \(tokenizer\.chat_template; in a",
        ),
        (TALK, "{{ messages[0]['content'] }}", "the teacher's chat template leaves messages out"),
        (TALK, "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "changes what they say"),
    ],
)
def test_what_cannot_be_placed_is_refused(talk: Any, template: str | None, text: str) -> None:
    with pytest.raises(DataError, match=text):
        align_messages([talk], OURS, with_template("bpe", template), 200)
