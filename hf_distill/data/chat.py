"""Conversations with an assistant, as rows of data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from datasets import Dataset, DatasetDict

from hf_distill.data.files import Table, describe
from hf_distill.errors import DataError

MESSAGES, LINE = "messages", "line"
"""The columns of a split: the messages of a conversation as JSON, and the number of its line or row."""
ANSWER = "answer"
"""The column of a split whose messages stop before an answer of the assistant's: what it says, which alone is
learned."""
ROLE, CONTENT = "role", "content"
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"

Message = dict[str, Any]
Conversation = list[Message]


@dataclass(frozen=True)
class Columns:
    """Where conversations stand: in one column of messages, or in two, of prompts and of completions. `system` is what
    stands before a conversation that has no such message."""

    messages: str | None = MESSAGES
    prompt: str | None = None
    completion: str | None = None
    system: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (self.messages, self.prompt, self.completion) if name is not None)


@dataclass(frozen=True)
class Conversations:
    """The splits, checked, with the columns `MESSAGES` and `LINE`. `sources` maps each split to the SHA-256 of its
    file, and `places` to what its lines are called in messages."""

    splits: DatasetDict
    sources: Mapping[str, str]
    places: Mapping[str, str]

    def place(self, split: str, line: int) -> str:
        """Where a conversation stands; splits that were cut from the training rows have theirs."""
        return f"{self.places.get(split, self.places['train'])} {line}"


def conversations(tables: Mapping[str, Table], columns: Columns) -> Conversations:
    """Checks the rows of the splits.

    A message is a mapping with a role and its content, both text; further keys, of values that JSON knows, are the
    template's to read, and those without a value are left out. A prompt is text, which is the user's, or a list of
    messages, and so is a completion, the assistant's.

    Errors: DataError, with file, line and column, for a cell of another kind, and for a conversation in which the
    assistant says nothing.
    """
    splits = {}
    for name, table in tables.items():
        read = _both if columns.messages is None else _one
        found = [read(table, row, columns) for row in range(len(table))]
        splits[name] = Dataset.from_dict({MESSAGES: [json.dumps(each) for each in found], LINE: table.numbers})
    places = {name: f"{table.path}, {table.unit}" for name, table in tables.items()}
    return Conversations(DatasetDict(splits), {name: table.sha256 for name, table in tables.items()}, places)


def messages_of(row: Mapping[str, Any]) -> Conversation:
    """The messages of a row, with its answer where that stands in a column of its own."""
    found: Conversation = json.loads(row[MESSAGES])
    return [*found, {ROLE: ASSISTANT, CONTENT: row[ANSWER]}] if ANSWER in row else found


def before_answers(data: Conversations, split: str) -> Dataset:
    """The rows of a split, cut before the assistant's last answer, with what it says in the column `ANSWER`. Answers
    before it stay as they are, and what comes behind it, and its further keys, go.

    Errors: DataError for a conversation that begins with that answer.
    """
    messages, answers = [], []
    for row in data.splits[split]:
        found = messages_of(row)
        last = max(i for i, message in enumerate(found) if message[ROLE] == ASSISTANT)
        if last == 0:
            raise DataError(
                f"{data.place(split, row[LINE])}: begins with the assistant's only answer, and a teacher writes an "
                "answer to what stands before it; put a message there, or leave the row out."
            )
        messages.append(json.dumps(found[:last]))
        answers.append(found[last].get(CONTENT, ""))
    return Dataset.from_dict({MESSAGES: messages, LINE: data.splits[split][LINE][:], ANSWER: answers})


def _one(table: Table, row: int, columns: Columns) -> Conversation:
    """A conversation in one column."""
    column = str(columns.messages)
    place = table.place(row, column)
    return _whole(_messages(table.columns[column][row], place), place, columns.system)


def _both(table: Table, row: int, columns: Columns) -> Conversation:
    """A conversation in a column of prompts and one of completions."""
    found: Conversation = []
    for column, role in ((str(columns.prompt), USER), (str(columns.completion), ASSISTANT)):
        cell, place = table.columns[column][row], table.place(row, column)
        found += _messages(cell if isinstance(cell, list) else [{ROLE: role, CONTENT: cell}], place)
    return _whole(found, table.place(row, str(columns.completion)), columns.system)


def _whole(found: Conversation, place: str, system: str | None) -> Conversation:
    """The conversation with a first message of the system's, if there is none.

    Errors: DataError where the assistant says nothing.
    """
    if not any(message[ROLE] == ASSISTANT for message in found):
        roles = ", ".join(dict.fromkeys(message[ROLE] for message in found))
        raise DataError(
            f"{place}: no message is the assistant's (the roles are {roles}), so there is nothing to learn; leave the "
            f"row out, or call its role {ASSISTANT!r}."
        )
    if system is None or found[0][ROLE] == SYSTEM:
        return found
    return [{ROLE: SYSTEM, CONTENT: system}, *found]


def _messages(cell: Any, place: str) -> Conversation:
    if not isinstance(cell, list) or not cell:
        raise DataError(f"{place}: holds {describe(cell)}, expected a list of messages.")
    return [_message(each, f"{place}, message {number}") for number, each in enumerate(cell, start=1)]


def _message(given: Any, place: str) -> Message:
    if not isinstance(given, Mapping):
        raise DataError(f'{place}: is {describe(given)}, expected a message, as {{"role": "user", "content": "…"}}.')
    message = {key: value for key, value in given.items() if value is not None}
    if ROLE not in message and {"from", "value"} <= message.keys():
        raise DataError(
            f"{place}: has the keys 'from' and 'value'; call them {ROLE!r} and {CONTENT!r}, and the roles {USER!r} "
            f"and {ASSISTANT!r}."
        )
    for key in (ROLE, CONTENT):
        if key == CONTENT and key not in message and message.get("tool_calls"):
            continue
        value = message.get(key)
        if not isinstance(value, str) or (key == ROLE and not value):
            raise DataError(f"{place}: its {key} is {describe(value)}, expected text.")
    for key, value in message.items():
        _check_writable(key, value, place)
    return message


def _check_writable(key: str, value: Any, place: str) -> None:
    """Refuses what JSON does not know, or UTF-8 cannot hold: a template may write any key."""
    try:
        json.dumps({key: value}, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{place}, {key}: {error}; replace that character.") from error
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{place}: its {key} is {describe(value)}, which JSON does not know; leave it out, or make text of it."
        ) from error
