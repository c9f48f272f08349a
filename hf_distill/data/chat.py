"""Conversations with an assistant, as rows of data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from datasets import Dataset, DatasetDict

from hf_distill.data.files import Table, commit_of, describe, sums
from hf_distill.errors import DataError

MESSAGES, LINE = "messages", "line"
"""The columns of a split: the messages of a conversation as JSON, and the number of its line or row."""
ANSWER = "answer"
"""The column of a split whose messages stop before an answer of the assistant's: what it says, which alone is
learned."""
PROMPT = "is_prompt"
"""The column of a split in which some rows are prompts alone: whether a row is one."""
WRITTEN = (
    "have a model write the answers in every stage: the teacher before the training (teacher.generate, and targets: "
    "best or all), or student and teacher meanwhile (on_policy, with student_share and teacher_share 1 together)"
)
"""How training rows go without answers, as the end of a message."""
ROLE, CONTENT = "role", "content"
TRAIN = "train"
SYSTEM, USER, ASSISTANT = "system", "user", "assistant"

Message = dict[str, Any]
Conversation = list[Message]


@dataclass(frozen=True)
class Columns:
    """Where conversations stand: in one column of messages, or in two, of prompts and of completions. With prompts and
    no completions the training rows are prompts, and those of other splits conversations in `messages`. `system` is
    what stands before a conversation that has no such message."""

    messages: str | None = MESSAGES
    prompt: str | None = None
    completion: str | None = None
    system: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read."""
        return tuple(name for name in (self.messages, self.prompt, self.completion) if name is not None)

    def in_split(self, split: str) -> Columns:
        """The columns of one split: of messages, or of prompts."""
        if self.prompt is not None and (self.completion is not None or split == TRAIN):
            return replace(self, messages=None)
        return replace(self, prompt=None)


@dataclass(frozen=True)
class Conversations:
    """The splits, checked, with the columns `MESSAGES` and `LINE`, and `PROMPT` where some rows are. `sources` maps
    each split to the SHA-256 of what it was read from, `places` to what its lines are called in messages. `commit` is
    that of a data set of the Hub."""

    splits: DatasetDict
    sources: Mapping[str, str]
    places: Mapping[str, str]
    commit: str | None = None

    def place(self, split: str, line: int) -> str:
        """Where a conversation stands; splits that were cut from the training rows have theirs."""
        return f"{self.places.get(split, self.places['train'])} {line}"


class _Row(NamedTuple):
    """A conversation, and what it lacks to have an answer; nothing where it has one."""

    messages: Conversation
    lacks: str = ""


def conversations(
    tables: Mapping[str, Table], columns: Columns, read_by: str = "the student learns the answers of the data"
) -> Conversations:
    """Checks the rows of the splits.

    A message is a mapping with a role and its content, both text; further keys, of values that JSON knows, are the
    template's to read, and those without a value are left out. A prompt is text, which is the user's, or a list of
    messages, and so is a completion, the assistant's.

    `read_by` says what reads the answers of training rows. Where it is empty, nothing does, and such a row may be a
    prompt alone: a conversation in which the assistant says nothing, or what has no completion, which is a prompt as a
    whole, whoever has spoken in it.

    Errors: DataError, with file, line and column, for a cell of another kind, for a row without an answer where
    something reads it, and for a prompt alone that ends in an answer.
    """
    splits = {}
    for name, table in tables.items():
        rows = list(_rows(table, columns, name, read_by))
        kept = {MESSAGES: [json.dumps(row.messages) for row in rows], LINE: table.numbers}
        prompts = [bool(row.lacks) for row in rows]
        splits[name] = Dataset.from_dict({**kept, **({PROMPT: prompts} if any(prompts) else {})})
    places = {name: f"{table.path}, {table.unit}" for name, table in tables.items()}
    return Conversations(DatasetDict(splits), sums(tables), places, commit_of(tables))


def with_answers(data: Conversations) -> Conversations:
    """The conversations, of which all that are not trained on have answers.

    Errors: DataError for a prompt alone that was cut off the training rows for another split.
    """
    splits = dict(data.splits)
    for name, rows in data.splits.items():
        prompts = rows[PROMPT][:] if name != TRAIN and PROMPT in rows.column_names else None
        if prompts is None:
            continue
        if True in prompts:
            raise DataError(
                f"{data.place(name, rows[LINE][prompts.index(True)])}: has no answer, and it was cut off for {name} "
                "(data.split), which is judged by what the assistant says; give a file of such rows with answers."
            )
        splits[name] = rows.remove_columns(PROMPT)
    return replace(data, splits=DatasetDict(splits))


def messages_of(row: Mapping[str, Any]) -> Conversation:
    """The messages of a row, with its answer where that stands in a column of its own."""
    found: Conversation = json.loads(row[MESSAGES])
    return [*found, {ROLE: ASSISTANT, CONTENT: row[ANSWER]}] if ANSWER in row else found


def before_answers(data: Conversations, split: str) -> Dataset:
    """The rows of a split, cut before the assistant's last answer, with what it says in the column `ANSWER`. Answers
    before it stay as they are, and what comes behind it, and its further keys, go. A prompt alone stays whole, and its
    answer is empty.

    Errors: DataError for a conversation that begins with that answer.
    """
    messages, answers = [], []
    for row in data.splits[split]:
        found = messages_of(row)
        spoken = [] if row.get(PROMPT) else [i for i, message in enumerate(found) if message[ROLE] == ASSISTANT]
        last = max(spoken, default=len(found))
        if last == 0:
            raise DataError(
                f"{data.place(split, row[LINE])}: begins with the assistant's only answer, and a teacher writes an "
                "answer to what stands before it; put a message there, or leave the row out."
            )
        messages.append(json.dumps(found[:last]))
        answers.append(found[last].get(CONTENT, "") if spoken else "")
    return Dataset.from_dict({MESSAGES: messages, LINE: data.splits[split][LINE][:], ANSWER: answers})


def _rows(table: Table, columns: Columns, split: str, read_by: str) -> Iterator[_Row]:
    """The rows of a split. Errors: DataError, as `conversations`."""
    own = columns.in_split(split)
    for column in own.names:
        if column not in table.columns and split != TRAIN:
            raise DataError(
                f"{table.path}: no column {column!r}, and {split} is judged by what the assistant says; name the "
                "column of its conversations (messages_column), or of its answers (completion_column), which training "
                "rows need not have where a model writes."
            )
    for number in range(len(table)):
        row, place = (_one if own.prompt is None else _both)(table, number, own)
        if row.lacks and split != TRAIN:
            raise DataError(
                f"{place}: {row.lacks}, and {split} is judged by what the assistant says; leave the row out, or give "
                "the answer."
            )
        if row.lacks and read_by:
            raise DataError(
                f"{place}: {row.lacks}, so there is nothing to learn, and {read_by}. Leave the row out, give its "
                f"answer (the role is {ASSISTANT!r}), or {WRITTEN}."
            )
        yield row._replace(messages=_begun(row.messages, own.system))


def _one(table: Table, row: int, columns: Columns) -> tuple[_Row, str]:
    """A conversation in one column, and its place."""
    column = str(columns.messages)
    place = table.place(row, column)
    return _row(_messages(table.columns[column][row], place)), place


def _both(table: Table, row: int, columns: Columns) -> tuple[_Row, str]:
    """A conversation in a column of prompts and one of completions, or a prompt without one, and its place."""
    asked, answered = str(columns.prompt), columns.completion
    found = _spoken(table, row, asked, USER)
    if answered is not None and table.columns.get(answered, [None] * len(table))[row] is not None:
        return _row([*found, *_spoken(table, row, answered, ASSISTANT)]), table.place(row, answered)
    if found[-1][ROLE] == ASSISTANT:
        raise DataError(
            f"{table.place(row, asked)}: ends in the assistant's message, and a model is to write that; leave it out, "
            "or name the column as that of conversations (messages_column)."
        )
    return _Row(found, "there is no completion"), table.place(row, answered or asked)


def _spoken(table: Table, row: int, column: str, role: str) -> Conversation:
    """The messages of a cell; a text is what `role` says."""
    cell = table.columns[column][row]
    return _messages(cell if isinstance(cell, list) else [{ROLE: role, CONTENT: cell}], table.place(row, column))


def _row(found: Conversation) -> _Row:
    if any(message[ROLE] == ASSISTANT for message in found):
        return _Row(found)
    roles = ", ".join(dict.fromkeys(message[ROLE] for message in found))
    return _Row(found, f"no message is the assistant's (the roles are {roles})")


def _begun(found: Conversation, system: str | None) -> Conversation:
    """The conversation with a first message of the system's, if there is none."""
    return found if system is None or found[0][ROLE] == SYSTEM else [{ROLE: SYSTEM, CONTENT: system}, *found]


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
