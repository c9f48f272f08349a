"""What a served language model told of texts: their tokens, and the likeliest ones at each place.

A record is a line of JSON: the answer of a server that speaks OpenAI's protocol, as vLLM does, with what was asked
beside it where the answer does not tell. Read are

- `prompt_logprobs` (vLLM): a list with None for the first token of the prompt and {id: {"logprob": …}} for each other;
- `logprobs` of a completion (`tokens` and `top_logprobs`, with `echo` of the prompt as well);
- `logprobs` of a chat (`content`, each with its `top_logprobs`);
- without a server between: {"input_ids": […], "top_logprobs": [null, {id: logprob} or [[id, logprob], …], …]}.

The answer stands in the line itself, under `response`, or under `response.body` (the files of batches); what was asked
in the line, under `request` or `body`: `prompt` (a text, or ids) or `messages`. Ids that the server gives
(`prompt_token_ids`, `token_ids`; vLLM: return_token_ids) are taken, and compared with the texts of tokens; without
them the tokenizer makes them of the prompt, or the chat template of the messages, and finds each token of the answer;
what was asked for in a way that changes the prompt is refused then, and so is a prompt of another number of tokens
than the server counted (`usage.prompt_tokens`).
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from hf_distill.data.chat_day import asks_for_day, template_of
from hf_distill.data.files import describe, json_lines
from hf_distill.data.served_answers import answer_of, asked_of, first_given, has_echo, spelling_of, texts_and_laws
from hf_distill.data.served_requests import OF_MESSAGES, OF_TEXT, REMEDY, check_number, check_settings
from hf_distill.data.served_words import Words
from hf_distill.errors import DataError

LONGEST_LINE = 2**27
"""Bytes of a record at most."""

ABOVE_ZERO, ABOVE_ONE = 1e-3, 1e-2
"""How far rounding may lift a log-probability above 0, and the sum of the probabilities of a place above 1."""

LEAST = -9000.0
"""Log-probabilities below are no mass at all: minus infinity as servers write it."""

Entries = list[tuple[int | None, Any]]


@dataclass(frozen=True)
class Law:
    """The likeliest tokens of a place, the likeliest first: `ids`, and their `log_probabilities`."""

    ids: NDArray[np.int64]
    log_probabilities: NDArray[np.float64]


@dataclass(frozen=True)
class Told:
    """One text: its tokens, and for each what the model thought of that place given the tokens before it, None where
    it told nothing."""

    input_ids: list[int]
    laws: list[Law | None]
    model: str | None
    place: str


@dataclass
class Counts:
    """What was read: texts, those that were cut to the length limit, requests that the server did not answer, places
    (the first of a text apart, which nothing foretells), those without a record, and likely tokens whose text the
    tokenizer does not know."""

    texts: int = 0
    cut: int = 0
    failed: int = 0
    places: int = 0
    silent: int = 0
    unknown: int = 0


class Records:
    """The records of some files, read anew each time they are gone through; `counts` are those of the last time.

    `num_classes` is the vocabulary of the model, `max_length` what texts are cut to.

    Raises: `DataError` that names file, line and place: of a line that is no record, ids beyond the vocabulary,
    numbers that are no log-probabilities, tokens that another tokenizer made, and texts whose tokens cannot be told.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        tokenizer: PreTrainedTokenizerBase,
        num_classes: int,
        max_length: int | None = None,
    ) -> None:
        self.paths, self.tokenizer, self.num_classes, self.max_length = paths, tokenizer, num_classes, max_length
        self.words = Words(tokenizer)
        self.counts = Counts()

    def __iter__(self) -> Iterator[Told]:
        self.counts = Counts()
        for path in self.paths:
            for number, line in _lines(path):
                yield from self._told(line, f"{path}, line {number}")

    def _told(self, line: Mapping[str, Any], place: str) -> Iterator[Told]:
        body = answer_of(line)
        if body is None:
            self.counts.failed += 1
            return
        model = body.get("model")
        if model is not None and not isinstance(model, str):
            raise DataError(f"{place}: model is {describe(model)}, expected text.")
        if "input_ids" in body:
            yield self._whole(self._ids(body["input_ids"], place), body.get("top_logprobs"), model, place)
            return
        choices = body.get("choices")
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise DataError(
                f"{place}: neither input_ids with top_logprobs nor the choices of a server are in it; it has "
                f"{', '.join(map(str, body)) or 'nothing'}."
            )
        for choice in choices:
            yield self._of_choice(asked_of(line), body, choice, model, place)

    def _whole(self, ids: list[int], laws: Any, model: str | None, place: str) -> Told:
        """A text with laws for all of it, cut to the length limit."""
        if not isinstance(laws, list) or len(laws) != len(ids):
            found = f"{len(laws)} laws" if isinstance(laws, list) else describe(laws)
            raise DataError(f"{place}: {len(ids)} tokens have {found}; give one for each, null where there is none.")
        places = [f"{place}, token {i}" for i in range(len(ids))]
        told = [
            None if law is None else self._law(self._numbered(law, here), here)
            for law, here in zip(laws, places, strict=True)
        ]
        return self._cut(ids, told, model, place)

    def _cut(self, ids: list[int], laws: list[Law | None], model: str | None, place: str) -> Told:
        if not ids:
            raise DataError(f"{place}: the text has no token.")
        if self.max_length is not None and len(ids) > self.max_length:
            self.counts.cut += 1
            ids, laws = ids[: self.max_length], laws[: self.max_length]
        self.counts.texts += 1
        self.counts.places += len(ids) - 1
        self.counts.silent += sum(law is None for law in laws[1:])
        return Told(ids, laws, model, place)

    # ---- a server's answer ----

    def _of_choice(
        self,
        asked: Mapping[str, Any],
        body: Mapping[str, Any],
        choice: Mapping[str, Any],
        model: str | None,
        place: str,
    ) -> Told:
        logprobs = choice.get("logprobs")
        echoed = isinstance(logprobs, dict) and has_echo(logprobs)
        prompt = self._prompt(asked, body, choice, place)
        if prompt is not None:
            check_number(body, choice, len(prompt), place)
        if echoed:
            ids, laws = self._answered(choice, place, prompt or [])
            if prompt is not None and ids[: len(prompt)] != prompt:
                raise DataError(
                    f"{place}: the server's tokens of the prompt are {ids[:6]} …, and the tokenizer makes "
                    f"{prompt[:6]} … of it; the records are of another tokenizer."
                )
            return self._cut(ids, laws, model, place)
        if prompt is None:
            raise DataError(
                f"{place}: nothing tells the tokens of the prompt; ask the server for them (vLLM: return_token_ids), "
                "or put prompt or messages into the line."
            )
        ids, laws = self._answered(choice, place, [])
        given = first_given("prompt_logprobs", choice, body)
        before = [None] * len(prompt) if given is None else self._prompted(given, prompt, place)
        return self._cut([*prompt, *ids], [*before, *laws], model, place)

    def _prompt(
        self, asked: Mapping[str, Any], body: Mapping[str, Any], choice: Mapping[str, Any], place: str
    ) -> list[int] | None:
        """The tokens of the prompt, if anything tells them."""
        given = first_given("prompt_token_ids", choice, body)
        if given is not None:
            return self._ids(given, place)
        prompt, messages = asked.get("prompt"), asked.get("messages")
        if isinstance(prompt, list):
            return self._ids(prompt, place)
        if isinstance(prompt, str):
            check_settings(asked, OF_TEXT, place)
            return self._ids(self._tokens(prompt, place), place)
        if messages is not None:
            return self._ids(self._rendered(messages, asked, place), place)
        return None

    def _rendered(self, messages: Any, asked: Mapping[str, Any], place: str) -> Any:
        template = template_of(self.tokenizer)
        if template is None:
            raise DataError(
                f"{place}: has messages, and the tokenizer no chat template to make a text of them; give the "
                "tokenizer of the served model, or ask the server for token ids."
            )
        check_settings(asked, {**OF_MESSAGES, "chat_template": template}, place)
        if asks_for_day(template):
            raise DataError(
                f"{place}: has messages, and the chat template writes the day on which the server read them, which is "
                f"not known; {REMEDY}."
            )
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template raises what it likes
            raise DataError(f"{place}: the chat template does not take the messages: {error}") from error
        return self._tokens(text, place, add_special_tokens=False)

    def _tokens(self, text: str, place: str, **settings: bool) -> Any:
        """The tokens of a text, which JSON can give characters that UTF-8 cannot hold."""
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{place}: {error}; replace that character.") from error
        return self.tokenizer(text, **settings)["input_ids"]

    def _prompted(self, laws: Any, prompt: list[int], place: str) -> list[Law | None]:
        """The laws of a prompt, each of which names the token that stands there."""
        if not isinstance(laws, list) or len(laws) != len(prompt):
            found = len(laws) if isinstance(laws, list) else describe(laws)
            raise DataError(
                f"{place}: prompt_logprobs has {found} places, and the prompt {len(prompt)} tokens; the records are "
                "of another tokenizer or chat template, or the server cut the prompt."
            )
        found_laws: list[Law | None] = []
        for i, (law, token) in enumerate(zip(laws, prompt, strict=True)):
            here = f"{place}, token {i}"
            if isinstance(law, dict) and str(token) not in law:
                raise DataError(
                    f"{here}: is {token} {self.tokenizer.convert_ids_to_tokens(token)!r} here, which the server does "
                    f"not have among the {len(law)} of this place; the records are of another tokenizer or chat "
                    "template."
                )
            found_laws.append(None if law is None else self._law(self._numbered(law, here), here))
        return found_laws

    def _answered(self, choice: Mapping[str, Any], place: str, echo: list[int]) -> tuple[list[int], list[Law | None]]:
        """The tokens that the model wrote, behind an `echo` of the prompt where there is one, and their laws."""
        logprobs, given = choice.get("logprobs"), choice.get("token_ids")
        tokens, laws = texts_and_laws(logprobs, place)
        if logprobs is None:
            return [], []  # what was written was not scored: the text is the prompt, which a server must go on with
        ids = [*echo, *self._ids(given, place)] if given is not None else []
        if given is not None and len(tokens) > len(ids):
            raise DataError(f"{place}: {len(tokens)} tokens have log-probabilities, and token_ids are {len(ids)}.")
        found: list[Law | None] = []
        for i, (text, octets) in enumerate(tokens):
            here = f"{place}, token {i} of the answer"
            if given is None:
                ids.append(self._id_of(text, octets, here))
            elif not self.words.agree(ids[i], text):
                raise self._another(ids[i], text, here)
            law = laws[i]
            found.append(None if law is None else self._law(self._spelt(law, here), here))
        return ids, [*found, *[None] * (len(ids) - len(found))]

    def _id_of(self, text: str, octets: bytes | None, place: str) -> int:
        found = self.words.id_of(text, octets)
        if found is None:
            raise DataError(
                f"{place}: {text!r} is the text of no token of the tokenizer, or of several; the records are of "
                "another tokenizer, or ask the server for ids (vLLM: return_token_ids, return_tokens_as_token_ids)."
            )
        return self._ids([found], place)[0]

    def _another(self, token: int, told: str, place: str) -> DataError:
        own = self.tokenizer.convert_ids_to_tokens(token) if token < self.words.size else None
        return DataError(
            f"{place}: {token} is {told!r} to the server, and {own!r} to the tokenizer; the records are of another "
            "tokenizer."
        )

    # ---- numbers ----

    def _ids(self, ids: Any, place: str) -> list[int]:
        if not isinstance(ids, list):
            raise DataError(f"{place}: token ids are {describe(ids)}, expected a list of them.")
        for token in ids:
            if type(token) is not int or not 0 <= token < self.num_classes:
                raise DataError(
                    f"{place}: has the token id {describe(token)}; ids are whole numbers from 0 to "
                    f"{self.num_classes - 1}, the vocabulary of the model."
                )
        return ids

    def _numbered(self, law: Any, place: str) -> Entries:
        """The entries of a law that names tokens by their numbers, with or without their texts."""
        if isinstance(law, list):
            if not all(isinstance(each, list) and len(each) == 2 for each in law):
                raise DataError(f"{place}: a law is {describe(law)}, expected pairs of an id and its log-probability.")
            return [(self._ids([token], place)[0], value) for token, value in law]
        if not isinstance(law, dict):
            raise DataError(f"{place}: a law is {describe(law)}, expected log-probabilities by token ids.")
        entries: Entries = []
        for name, told in law.items():
            if not (name.isascii() and name.isdecimal() and len(name) < 10):
                raise DataError(f"{place}: {name!r} is no token id.")
            token = self._ids([int(name)], place)[0]
            rank, text = (told.get("rank"), told.get("decoded_token")) if isinstance(told, dict) else (None, None)
            if isinstance(text, str) and not self.words.agree(token, text):
                raise self._another(token, text, place)
            if not isinstance(rank, int) or rank <= len(law):  # else it is the token of the place beside the likeliest
                entries.append((token, told.get("logprob") if isinstance(told, dict) else told))
        return entries

    def _spelt(self, law: Any, place: str) -> Entries:
        """The entries of a law that names tokens by their texts; None for those that are not known."""
        if not isinstance(law, dict | list):
            raise DataError(f"{place}: a law is {describe(law)}, expected log-probabilities by tokens.")
        entries: Entries = []
        for name, each in law.items() if isinstance(law, dict) else [(each, each) for each in law]:
            text, octets = spelling_of(name, place)
            entries.append((self.words.id_of(text, octets), each.get("logprob") if isinstance(each, dict) else each))
        return entries

    def _law(self, entries: Entries, place: str) -> Law | None:
        """The law of a place; None where nothing is left of it."""
        kept: dict[int, float] = {}
        for token, value in entries:
            number = _log_probability(value, place)
            if token is None:
                self.counts.unknown += 1
            elif self._ids([token], place)[0] in kept:
                raise DataError(f"{place}: token {token} has two log-probabilities.")
            elif number > LEAST:
                kept[token] = number
        mass = math.fsum(map(math.exp, kept.values()))
        if mass > 1.0 + ABOVE_ONE:
            raise DataError(
                f"{place}: the probabilities of {len(kept)} tokens sum to {mass:.3f}; they are no law. Have the "
                "server give log-probabilities of the model itself, at temperature 1 (vLLM: logprobs_mode "
                "raw_logprobs)."
            )
        if not kept:
            return None
        order = sorted(kept, key=lambda token: (-kept[token], token))
        return Law(np.array(order, np.int64), np.array([kept[token] for token in order], np.float64))


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file, of which no line is longer than `LONGEST_LINE`."""
    try:
        with path.open("rb") as file:
            yield from json_lines(_bounded(gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file, path), path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}.") from error


def _bounded(file: Any, path: Path) -> Iterator[bytes]:
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise DataError(f"{path}: a line is longer than {LONGEST_LINE} bytes; records are one a line.")
        yield line


def _log_probability(value: Any, place: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value > ABOVE_ZERO:
        raise DataError(
            f"{place}: a log-probability is {describe(value)}; it must be a number of at most 0 (vLLM: logprobs_mode "
            "raw_logprobs, not logits)."
        )
    return min(float(value), 0.0) if value > LEAST else -math.inf
