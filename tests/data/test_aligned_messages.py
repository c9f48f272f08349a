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
    assert said(row, "teacher", THEIRS) == [
        "The quick dog.",
        "the lazy fox<|end|>",
    ]  # a space parts the first from its end
    spans: dict[int, list[str]] = {}
    for side, ids, tokens in (("student", "input_ids", OURS), ("teacher", "teacher_input_ids", THEIRS)):
        for span, token in zip(row[f"{side}_spans"], row[ids], strict=True):
            if span >= 0:
                spans.setdefault(span, []).append(tokens.convert_ids_to_tokens(token))
    assert sorted(spans) == list(range(len(spans)))
    assert spans[max(spans)] == ["[SEP]", "<|end|>"]
    assert counts.spans == len(spans)


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
        (TALK, "{{ raise_exception('no system') }}", "the teacher's chat template does not take it: no system"),
        (TALK, "{{ messages[0]['content'] }}", "the teacher's chat template leaves messages out"),
        (TALK, "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "changes what they say"),
    ],
)
def test_what_cannot_be_placed_is_refused(talk: Any, template: str | None, text: str) -> None:
    with pytest.raises(DataError, match=text):
        align_messages([talk], OURS, with_template("bpe", template), 200)
