"""Conversations: what is read of files, what a template makes of them, and which tokens are the assistant's."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_distill.data.chat import (
    ANSWER,
    LINE,
    PROMPT,
    Columns,
    Conversations,
    before_answers,
    conversations,
    messages_of,
)
from hf_distill.data.chat_template import ChatTemplate
from hf_distill.data.chat_tokens import tokenize_conversations
from hf_distill.data.files import read
from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED, PROMPT_TOKENS
from tests import chats, tiny_runs, tokenizers_of_kinds

PLACE = "chats.jsonl, line 1"


def loaded(folder: Path, rows: list[dict[str, Any]], columns: Columns | None = None, **settings: Any) -> Conversations:
    columns = (columns or Columns()).in_split("train")
    path = tiny_runs.write_jsonl(folder / "chats.jsonl", rows)
    return conversations({"train": read(path, (), columns.names)}, columns, **settings)


def asked(number: int) -> list[dict[str, str]]:
    """A conversation of two turns that waits for its second answer."""
    return chats.said(number, 2)[:-1]


def words(template: str, messages: list[dict[str, Any]]) -> list[str]:
    """The runs of tokens that are the assistant's, as text."""
    tokenizer = chats.tokenizer(template)
    ids, said = ChatTemplate(tokenizer).read(messages, PLACE)
    runs: list[list[int]] = []
    for token, mine, before in zip(ids, said, [False, *said], strict=False):
        if mine:
            runs += [] if before else [[]]
            runs[-1].append(token)
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("first", [[], [{"role": "system", "content": "Be brief.\n"}]])
def test_marks_and_prefixes_find_the_same_tokens(turns: int, first: list[dict[str, str]]) -> None:
    messages = [*first, *chats.said(7, turns)]
    plain, marked = (ChatTemplate(chats.tokenizer(each)) for each in (chats.PLAIN, chats.MARKED))
    assert (plain.is_marked, marked.is_marked) == (False, True)
    assert plain.read(messages, PLACE) == marked.read(messages, PLACE)
    answers = [f"{message['content']}{chats.END}" for message in messages if message["role"] == "assistant"]
    assert words(chats.PLAIN, messages) == words(chats.MARKED, messages) == answers
    assert len(answers) == turns


def test_marks_around_white_space_that_no_token_stands_for() -> None:
    """WordPiece has none for blanks: the answers begin and end there, and what the user says between them does not
    count."""
    tokens = copy.deepcopy(tokenizers_of_kinds.tokenizer("wordpiece"))
    tokens.chat_template = (
        "{% for m in messages %}{{ m['role'] }} : {% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}"
        "{% endgeneration %}{% else %}{{ m['content'] }}{% endif %} {% endfor %}"
    )
    turn = [{"role": "user", "content": "and the fox"}, {"role": "assistant", "content": "  the lazy dog\n"}]
    ids, said = ChatTemplate(tokens).read([*turn, *turn], PLACE)
    assert tokens.decode([token for token, mine in zip(ids, said, strict=True) if mine]) == "the lazy dog the lazy dog"


def test_an_answer_that_ends_in_white_space_without_an_end_is_kept_whole() -> None:
    bare = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert words(bare, [{"role": "user", "content": "q "}, {"role": "assistant", "content": "yes \n"}]) == ["yes \n"]


def test_a_template_that_forgets_answers_is_refused_by_name() -> None:
    tokenizer = chats.tokenizer(chats.FORGETFUL)
    tokenizer.name_or_path = "some/model"
    template = ChatTemplate(tokenizer)
    assert len(template.read(chats.said(1), PLACE)[0]) > 0
    with pytest.raises(
        DataError, match=r"line 1: message 2: the chat template of 'some/model' writes an answer other"
    ):
        template.read(chats.said(1, 2), PLACE)


@pytest.mark.parametrize(
    ("template", "messages", "text"),
    [
        (
            None,
            chats.said(1),
            r"has no chat template, and conversations are read through one\. .*data\.chat\.template",
        ),
        (
            "{{ raise_exception('roles must alternate') }}",
            chats.said(1),
            r"line 1: the chat template of .* refuses the conversation: roles must alternate\. Change its .* leave it",
        ),
        (chats.PLAIN, chats.said(1)[1:], r"message 1 is the assistant's and the first one"),
    ],
)
def test_what_cannot_be_read_is_refused(template: str | None, messages: list[dict[str, str]], text: str) -> None:
    with pytest.raises(DataError, match=text):
        ChatTemplate(chats.tokenizer(template)).read(messages, PLACE)


def test_prompts_and_completions_are_conversations_as_well(tmp_path: Path) -> None:
    rows = [
        {"q": "Why?", "a": "Because."},
        {"q": [{"role": "user", "content": "Why?", "name": None}], "a": [{"role": "assistant", "content": "So."}]},
    ]
    found = loaded(tmp_path, rows, Columns(None, "q", "a", "Be kind.")).splits["train"]
    first, second = map(messages_of, found)
    assert first == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ]
    assert second[1:] == [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    assert found["line"][:] == [1, 2]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ("hello", r"line 2, column 'messages': holds 'hello' \(str\), expected a list of messages"),
        ([], r"expected a list of messages"),
        (["hello"], r"message 1: is 'hello' \(str\), expected a message"),
        ([{"role": "user"}], r"message 1: its content is null, expected text"),
        ([{"role": "", "content": "x"}], r"message 1: its role is '' \(str\), expected text"),
        ([{"role": "user", "content": ["x"]}], r"message 1: its content is .*\(list\), expected text"),
        ([{"from": "human", "value": "x"}], r"has the keys 'from' and 'value'; call them 'role' and 'content'"),
        (chats.said(1)[:1], r"no message is the assistant's \(the roles are user\), so there is nothing to learn"),
        ([{"role": "assistant", "content": "\ud800"}], r"message 1, content: .*surrogates not allowed"),
        ([{"role": "user", "content": "a", "name": ["\ud800"]}, *chats.said(1)], r"message 1, name: .*surrogates"),
    ],
)
def test_cells_that_are_no_conversation_are_refused_with_their_line(tmp_path: Path, cell: Any, text: str) -> None:
    with pytest.raises(DataError, match=text):
        loaded(tmp_path, [{"messages": chats.said(1)}, {"messages": cell}])


@pytest.mark.parametrize("when", [datetime(2024, 5, 6, tzinfo=UTC), b"x"])
def test_what_json_does_not_know_is_refused_with_its_row(tmp_path: Path, when: Any) -> None:
    """A column of a parquet file may hold times and bytes."""
    path = tmp_path / "chats.parquet"
    Dataset.from_list([{"messages": [{**message, "when": when} for message in chats.said(1)]}]).to_parquet(path)
    with pytest.raises(DataError, match=r"chats\.parquet, row 1, .*message 1: its when is .*\((datetime|bytes)\)"):
        conversations({"train": read(path, ["messages"])}, Columns())


def test_labels_are_the_assistants_tokens_and_what_is_cut_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The second conversation loses its end, the third all that the assistant says."""
    long = [{"role": "user", "content": "x" * 60}, {"role": "assistant", "content": "never"}]
    data = loaded(tmp_path, [{"messages": each} for each in (chats.said(1), chats.said(1, 2), long)])
    tokenizer = chats.tokenizer()
    template = ChatTemplate(tokenizer)
    rows = tokenize_conversations(data, "train", template, 70)
    assert rows["length"][:] == [len(ids) for ids in rows["input_ids"]]
    assert [len(row["input_ids"]) for row in rows] == [len(template.read(chats.said(1), "")[0]), 70]
    for row in rows:
        assert all(label in (IGNORED, token) for label, token in zip(row["labels"], row["input_ids"], strict=True))
        said = tokenizer.decode([label for label in row["labels"] if label != IGNORED])
        assert said.startswith(f"1 ☕{chats.END}")
    told = (
        "train: 2 of 3 conversations are longer than 70 tokens and are cut; 1 of them have no token of the assistant"
    )
    assert told in caplog.text
    with pytest.raises(DataError, match="none of 3 conversations has a token of the assistant's among its first 9"):
        tokenize_conversations(data, "train", template, 9)


def test_rows_stop_before_the_last_answer(tmp_path: Path) -> None:
    """Whatever comes behind it, and whatever else it has, goes; what is put in its place is part of the row."""
    calls = [*chats.said(3)[:1], {"role": "assistant", "tool_calls": [{"name": "add"}]}]
    rows = [[*chats.said(1, 2), {"role": "user", "content": "Thanks"}], calls]
    data = loaded(tmp_path, [{"messages": each} for each in rows])
    found = before_answers(data, "train")
    assert found[ANSWER][:] == ["2 ☕", ""]
    assert found[LINE][:] == [1, 2]
    assert messages_of(found[0]) == chats.said(1, 2)
    assert messages_of({**found[0], ANSWER: "three"})[3]["content"] == "three"
    data = loaded(tmp_path, [{"messages": chats.said(1)}, {"messages": chats.said(1)[1:]}])
    with pytest.raises(DataError, match=r"chats\.jsonl, line 2: begins with the assistant's only answer"):
        before_answers(data, "train")


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (chats.PLAIN, chats.END),
        (chats.MARKED, chats.END),
        ("{% for m in messages %}{{ m['content'] }}\n<|im_start|>{% endfor %}", chats.START),
        ("{% for m in messages %}<|im_start|>{{ m['content'] }}\n{% endfor %}", None),
        ("{% for m in messages %}<|im_end|>{% endfor %}", None),
    ],
)
def test_the_token_that_ends_an_answer_is_the_one_behind_it(template: str, end: str | None) -> None:
    tokenizer = chats.tokenizer(template)
    found = ChatTemplate(tokenizer).end(chats.said(1)[:1], PLACE)
    assert found == (None if end is None else tokenizer.convert_tokens_to_ids(end))


@pytest.mark.parametrize("template", [chats.PLAIN, chats.MARKED, chats.FORGETFUL])
@pytest.mark.parametrize("turns", [1, 3])
def test_the_last_answer_alone_may_be_the_assistants(template: str, turns: int) -> None:
    """Also of a template whose earlier answers could not be told."""
    tokenizer = chats.tokenizer(template)
    ids, said = ChatTemplate(tokenizer).read(chats.said(7, turns), PLACE, last=True)
    assert (
        tokenizer.decode([token for token, mine in zip(ids, said, strict=True) if mine])
        == f"{6 + turns} ☕{chats.END}"
    )
    assert said == [*sorted(said[:-1]), False]


def test_rows_without_an_answer_are_prompts_where_nothing_reads_answers(tmp_path: Path) -> None:
    rows = [{"messages": chats.said(1)[:1]}, {"messages": chats.said(2)}]
    data = loaded(tmp_path, rows, Columns(system="Be kind."), read_by="")
    assert data.splits["train"][PROMPT][:] == [True, False]
    found = before_answers(data, "train")
    first = {"role": "system", "content": "Be kind."}
    assert messages_of(found.remove_columns(ANSWER)[0]) == [first, *chats.said(1)[:1]]
    assert (found[ANSWER][:], found[LINE][:]) == (["", "2 ☕"], [1, 2])
    assert PROMPT not in found.column_names
    assert PROMPT not in loaded(tmp_path, rows[1:], read_by="").splits["train"].column_names


@pytest.mark.parametrize("columns", [Columns(prompt="q"), Columns(None, "q", "a")])
def test_what_has_no_completion_is_asked_as_a_whole(tmp_path: Path, columns: Columns) -> None:
    """Also where the assistant has spoken before."""
    data = loaded(tmp_path, [{"q": "Why?"}, {"q": asked(3)}], columns, read_by="")
    assert data.splits["train"][PROMPT][:] == [True, True]
    found = before_answers(data, "train").remove_columns(ANSWER)
    assert [messages_of(row) for row in found] == [[{"role": "user", "content": "Why?"}], asked(3)]


def test_what_has_no_completion_may_stand_beside_what_has_one(tmp_path: Path) -> None:
    rows = [{"q": asked(3), "a": None}, {"q": "Why?", "a": "Because."}]
    data = loaded(tmp_path, rows, Columns(None, "q", "a"), read_by="")
    assert data.splits["train"][PROMPT][:] == [True, False]
    assert [row["content"] for row in messages_of(data.splits["train"][1])] == ["Why?", "Because."]


@pytest.mark.parametrize(
    ("row", "columns", "text"),
    [
        (
            {"messages": chats.said(1)[:1]},
            Columns(),
            r"line 2, column 'messages': no message is the assistant's \(the roles are user\), so there is nothing to "
            r"learn, and the control is trained on answers\. Leave the row out, .*on_policy",
        ),
        ({"q": asked(1)}, Columns(prompt="q"), r"line 1, column 'q': there is no completion, so there is nothing to"),
        ({"q": "x", "a": None}, Columns(None, "q", "a"), r"line 2, column 'a': there is no completion, so there is"),
    ],
)
def test_rows_without_an_answer_are_refused_with_what_reads_it(
    tmp_path: Path, row: dict[str, Any], columns: Columns, text: str
) -> None:
    whole = {"messages": chats.said(1), "q": "x", "a": "y"}
    with pytest.raises(DataError, match=text):
        loaded(tmp_path, [whole, row], columns, read_by="the control is trained on answers")


def test_a_prompt_that_the_assistant_ends_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"line 1, column 'q': ends in the assistant's message, and a model is to wri"):
        loaded(tmp_path, [{"q": chats.said(1)}], Columns(prompt="q"), read_by="")


def test_what_is_judged_by_answers_must_have_them(tmp_path: Path) -> None:
    path = tiny_runs.write_jsonl(tmp_path / "held.jsonl", [{"messages": chats.said(1)[:1], "q": "x"}])
    with pytest.raises(
        DataError, match=r"held\.jsonl, line 1.*the roles are user\), and validation is judged by what"
    ):
        conversations({"validation": read(path, ["messages"])}, Columns(), read_by="")
    with pytest.raises(
        DataError, match=r"held\.jsonl: no column 'a'.*validation is judged by what.*completion_column"
    ):
        conversations({"validation": read(path, ["q"])}, Columns("a", "q"), read_by="")


def test_a_prompt_alone_is_its_tokens_without_a_label(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One that fills a row leaves no room for an answer, and is left out."""
    tokenizer = chats.tokenizer()
    asks = [chats.said(1)[:1], [{"role": "user", "content": "x" * 60}]]
    data = loaded(tmp_path, [{"messages": each} for each in (*asks, chats.said(2, 2))], read_by="")
    rows = tokenize_conversations(data, "train", ChatTemplate(tokenizer), 150)
    expected = tokenizer.apply_chat_template(asks[0], add_generation_prompt=True, return_dict=False)
    assert (rows[0]["input_ids"], rows[0]["length"]) == (expected, len(expected))
    assert {label for row in rows.select([0, 1]) for label in row["labels"]} == {IGNORED}
    answered = tokenizer.apply_chat_template(chats.said(2)[:1], add_generation_prompt=True, return_dict=False)
    assert rows[PROMPT_TOKENS][:] == [len(expected), rows[1]["length"], len(answered)]
    room = rows[1]["length"]
    assert len(tokenize_conversations(data, "train", ChatTemplate(tokenizer), room + 1)) == 3
    assert len(tokenize_conversations(data, "train", ChatTemplate(tokenizer), room)) == 2
    assert f"train: 2 of 3 conversations are longer than {room} tokens" in caplog.text


def test_a_template_that_writes_no_answer_is_told_with_the_line(tmp_path: Path) -> None:
    silent = "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}{% endif %}{% endfor %}"
    data = loaded(tmp_path, [{"messages": chats.said(1)}])
    wanted = r"chats\.jsonl, line 1: no token that the chat template of .* writes is the.* Leave the row out, or give"
    with pytest.raises(DataError, match=wanted):
        tokenize_conversations(data, "train", ChatTemplate(chats.tokenizer(silent)), 99)
