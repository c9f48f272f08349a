"""The day that chat templates are told: it is that of the recipe, whatever the clock says."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from transformers.utils import chat_template_utils

from hf_distill.data.aligned_messages import align_messages
from hf_distill.data.chat_day import on_day
from hf_distill.data.chat_template import ChatTemplate
from tests import chats
from tests.chats import TODAY
from tests.data.test_aligned_messages import CHATML, PLAIN, TALK, with_template

PLACE = "chats.jsonl, line 1"


def clock(monkeypatch: pytest.MonkeyPatch, *now: int) -> None:
    """Sets the clock that transformers reads for templates."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(*now)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


def written(template: str, **variables: Any) -> str:
    return str(chats.tokenizer(template).apply_chat_template(chats.said(1), tokenize=False, **variables))


@pytest.mark.parametrize("template", [chats.PLAIN, chats.MARKED])
def test_conversations_have_the_same_tokens_on_two_days(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = chats.tokenizer(TODAY + template)
    found = []
    for now in ((2031, 1, 31, 23, 59), (2031, 2, 1, 0, 1)):
        clock(monkeypatch, *now)
        assert written(TODAY + template).startswith(f"Today: {datetime(*now):%d %b %Y}\n")
        made = ChatTemplate(tokenizer, date="2025-03-09")
        found.append((made.read(chats.said(7, 2), PLACE), made.beginning(chats.said(7)[:1], PLACE)))
        assert made.end(chats.said(7)[:1], PLACE) == tokenizer.eos_token_id
    assert found[0] == found[1]
    (ids, said), prompt = found[0]
    assert tokenizer.decode(ids).startswith("Today: 09 Mar 2025\n<|im_start|>user\n")
    assert tokenizer.decode(prompt).startswith("Today: 09 Mar 2025\n<|im_start|>user\n")
    assert (
        tokenizer.decode([token for token, mine in zip(ids, said, strict=True) if mine])
        == "7 ☕<|im_end|>8 ☕<|im_end|>"
    )
    default = ChatTemplate(tokenizer)
    assert default.text(chats.said(1), PLACE).startswith("Today: 26 Jul 2024\n")
    assert tokenizer.chat_template == TODAY + template


def test_both_sides_across_tokenizers_are_told_the_day(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = with_template("wordpiece", TODAY + PLAIN), with_template("bpe", TODAY + CHATML)
    found = []
    for day in (30, 31):
        clock(monkeypatch, 2031, 1, day)
        (row,) = align_messages([TALK], ours, theirs, 200, date="2025-03-09")[0]
        found.append(row)
    assert found[0] == found[1]
    said = ours("Today: 09 Mar 2025\n", add_special_tokens=False)["input_ids"]
    assert found[0]["input_ids"][: len(said)] == said
    assert theirs.decode(found[0]["teacher_input_ids"]).startswith("Today: 09 Mar 2025\n<|im_start|>")
    (row,) = align_messages([TALK], ours, theirs, 200)[0]
    assert theirs.decode(row["teacher_input_ids"]).startswith("Today: 26 Jul 2024\n<|im_start|>")


@pytest.mark.parametrize(
    "asks",
    [
        "{{ strftime_now('%A, %d %B %Y; %Y-%m-%d %H:%M:%S %p; %j %U %W %a %b %y %D %F') }}",
        "{{ strftime_now('%-d.%-m.%y|%e|%%d|%%%d|100%%|%') }}",
        "{{ strftime_now(format='%Y') | int + 1 }}{{ strftime_now('') }}{{ strftime_now('no day') }}",
        "{% macro day() %}{{ strftime_now('%x') }}{% endmacro %}{% for m in messages %}{{ day() }}{% endfor %}",
        "{% if strftime_now is defined %}{% set when = strftime_now('%d') %}{{ '%s' % when }}{% endif %}",
        "   {% if true %}\n  {{ strftime_now('%d') }}\n   {% endif %}\nx",
        "\n\n{%- set when = strftime_now('%m') %}\n{{ when }}\n",
        "\n  {{ strftime_now('%m') }}",
        "{# strftime_now #}\n{% generation %}{{ messages[0].content }}{% endgeneration %}",
    ],
)
@pytest.mark.parametrize("day", ["2024-07-26", "2005-01-02"])
def test_a_day_reads_as_the_clock_would_at_its_beginning(asks: str, day: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else the template writes stays, to the last blank."""
    clock(monkeypatch, *map(int, day.split("-")))
    assert written("", chat_template=on_day(asks, day)) == written(asks)


def test_a_template_that_does_not_ask_is_left_as_it_is() -> None:
    assert on_day(chats.PLAIN, "2024-07-26") == chats.PLAIN
