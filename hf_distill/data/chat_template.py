"""What a chat template makes of conversations, and which of its tokens are the assistant's."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from hf_distill.data.chat import ASSISTANT, CONTENT, ROLE, Conversation
from hf_distill.data.chat_day import DATE, on_day, template_of
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

MARKS = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
"""What begins a part that the assistant writes, in templates that mark it."""

Span = tuple[int, int]


class ChatTemplate:
    """The chat template of a tokenizer.

    `read` gives the token ids of a conversation and says which of them are the assistant's: those that a model must
    write itself, the token that ends its turn included. Templates that mark these with `{% generation %}` are asked
    for the marks. Of others each answer is found by prefixes: it is what the template writes for the conversation up
    to it, behind what it writes for the messages before it with the beginning of an answer (`add_generation_prompt`).
    White space behind the special token that ends a turn is left out, as the model has ended by then. A token counts
    that has any part of an answer. `date` is the day that a template is told which asks for it.

    Errors: DataError for a tokenizer without a template, or without offsets of its tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, name: str = "", date: str = DATE) -> None:
        self.tokenizer = tokenizer
        self.name = name or tokenizer.name_or_path or type(tokenizer).__name__
        self.source = _source(tokenizer, self.name)
        self._on_day = on_day(self.source, date)
        self.is_marked = MARKS.search(self.source) is not None
        if not tokenizer.is_fast:
            raise DataError(
                f"the tokenizer {self.name!r} ({type(tokenizer).__name__}) does not tell where in a text its tokens "
                "stand, which is how an assistant's are found; save it as a fast one (tokenizer.json)."
            )
        self._ends = tuple({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()})

    @property
    def digest(self) -> str:
        """The SHA-256 of the template."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def read(self, messages: Conversation, place: str, *, last: bool = False) -> tuple[list[int], list[bool]]:
        """The ids of a conversation, and which are the assistant's; with `last` those of the last message alone, which
        must be an answer.

        Errors: DataError that names `place`: for what the template refuses, and for answers that cannot be found in
        what it writes.
        """
        text, spans = (self._by_marks if self.is_marked else self._by_prefixes)(messages, place, last)
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(encoded["input_ids"]), _overlapping(encoded["offset_mapping"], spans)

    def _by_marks(self, messages: Conversation, place: str, last: bool) -> tuple[str, Sequence[Span]]:
        """What is written, and where the marks stand in it; with `last` those that the messages before have not. The
        tokenizer's own mask of these is not asked for: that of transformers 5.19 loses answers that begin or end with
        a character which no token stands for."""
        text, spans = self._marked(messages, place)
        return text, spans[len(self._marked(messages[:-1], place)[1]) if last else 0 :]

    def _marked(self, messages: Conversation, place: str) -> tuple[str, Sequence[Span]]:
        texts, spans = self._asked(
            place,
            lambda: render_jinja_template(
                conversations=[messages],
                chat_template=self._on_day,
                return_assistant_tokens_mask=True,
                **self.tokenizer.special_tokens_map,
            ),
        )
        return texts[0], spans[0]

    def _by_prefixes(self, messages: Conversation, place: str, last: bool) -> tuple[str, Sequence[Span]]:
        whole = self.text(messages, place)
        answers = [i for i, message in enumerate(messages) if message[ROLE] == ASSISTANT]
        return whole, [self._answer(messages, i, whole, place) for i in (answers[-1:] if last else answers)]

    def text(self, messages: Conversation, place: str, *, prompt: bool = False) -> str:
        """What the template writes, with `prompt` also the beginning of an answer.

        Errors: DataError, as `read`.
        """
        return str(
            self._asked(
                place,
                lambda: self.tokenizer.apply_chat_template(
                    messages, chat_template=self._on_day, tokenize=False, add_generation_prompt=prompt
                ),
            )
        )

    def beginning(self, messages: Conversation, place: str) -> list[int]:
        """The ids of a conversation that the assistant is to go on with. Errors: DataError, as `read`."""
        text = self.text(messages, place, prompt=True)
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def end(self, messages: Conversation, place: str) -> int | None:
        """The special token that the template puts behind an answer to these messages, None where there is none.
        Errors: DataError, as `read`."""
        mark = "\ue000"
        _, found, behind = self.text([*messages, {ROLE: ASSISTANT, CONTENT: mark}], place).rpartition(mark)
        ends = [token for token in self._ends if found and behind.lstrip().startswith(token)]
        return int(self.tokenizer.convert_tokens_to_ids(max(ends, key=len))) if ends else None

    def _answer(self, messages: Conversation, number: int, whole: str, place: str) -> Span:
        """Where message `number`, the assistant's, stands in what is written for all of them."""
        here = f"{place}: message {number + 1}"
        if number == 0:
            raise DataError(
                f"{here} is the assistant's and the first one, and where it begins cannot be told from the template "
                f"of {self.name!r}; put a message before it."
            )
        before = self.text(messages[:number], place, prompt=True)
        through = whole if number + 1 == len(messages) else self.text(messages[: number + 1], place)
        if not through.startswith(before) or not whole.startswith(self._to_end(through)):
            raise DataError(
                f"{here}: the chat template of {self.name!r} writes an answer otherwise once the conversation goes "
                "on, so that it cannot be told which tokens are the assistant's. Mark them in the template with "
                "{% generation %} … {% endgeneration %} (data.chat.template), or cut the conversations behind their "
                "first answer."
            )
        return len(before), len(self._to_end(through))

    def _to_end(self, text: str) -> str:
        """Without the white space behind a special token."""
        bare = text.rstrip()
        return bare if bare.endswith(self._ends) else text

    def _asked(self, place: str, ask: Callable[[], Any]) -> Any:
        try:
            return ask()
        except Exception as error:  # a template is a program, and raises what it likes
            raise DataError(
                f"{place}: the chat template of {self.name!r} refuses the conversation: {reason_of(error)}. Change "
                "its messages to what the template takes, leave it out, or give another template (data.chat.template)."
            ) from error


def reason_of(error: Exception) -> str:
    """What a chat template says of what it does not take, without a full stop."""
    return str(error).strip().split("\n")[0].removesuffix(".") or type(error).__name__


def _source(tokenizer: PreTrainedTokenizerBase, name: str) -> str:
    """The text of the template that is used where none is named.

    Errors: DataError where there is none.
    """
    found = template_of(tokenizer)
    if found is None:
        raise DataError(
            f"the tokenizer {name!r} has no chat template, and conversations are read through one. Take the tokenizer "
            "of a model that was trained to chat, or give the template in a file (data.chat.template)."
        )
    return found


def _overlapping(offsets: Sequence[Span], spans: Sequence[Span]) -> list[bool]:
    """Which tokens have any part of a span; both are in order."""
    found, number = [], 0
    for start, end in offsets:
        while number < len(spans) and start >= spans[number][1]:
            number += 1
        found.append(number < len(spans) and end > spans[number][0])
    return found
