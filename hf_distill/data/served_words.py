"""The texts of single tokens, by which servers name them."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable
from functools import cached_property
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from hf_distill.objectives.byte_letters import BYTES

Text = TypeVar("Text", bound=Hashable)

_NUMBERED = "token_id:"
"""How a server writes a token that it was asked to give by its number (vLLM: return_tokens_as_token_ids)."""

_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""What stands for bytes that are no whole character."""


class Words:
    """Tokens of a tokenizer by the text, or the bytes, that they are decoded to. Of texts that several tokens have
    (SentencePiece's word at the beginning of a text, and elsewhere) none is told."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.size = len(tokenizer)

    def id_of(self, text: str, octets: bytes | None = None) -> int | None:
        """The token that a server wrote as `text`, and whose bytes it gave where it did; None for one that is not
        known, or several. Of a part of a character vLLM gives the bytes of what stands for it, which tell nothing."""
        number = text.removeprefix(_NUMBERED)
        if number != text:
            return int(number) if number.isascii() and number.isdecimal() and len(number) < 10 else None
        if octets is not None and not (_UNKNOWN in text and octets == text.encode("utf-8", "surrogatepass")):
            return self._by_bytes.get(octets)
        return self._by_text.get(text)

    def agree(self, token: int, told: str) -> bool:
        """Whether a server's text of a token may be that of this tokenizer: spaces around it, and characters that it
        has a part of, are told in more ways than one."""
        if token >= self.size:  # of a vocabulary that is padded beyond its tokenizer
            return not told.strip()
        own = self._texts[token]
        if not told.strip() or not own.strip() or _UNKNOWN in own + told or told.startswith(_NUMBERED):
            return True
        return told.strip() == own.strip() or told == self.tokenizer.convert_ids_to_tokens(token)

    @cached_property
    def _texts(self) -> list[str]:
        alone = [[token] for token in range(self.size)]
        texts: list[str] = self.tokenizer.batch_decode(alone, clean_up_tokenization_spaces=False)
        return texts

    @cached_property
    def _by_text(self) -> dict[str, int | None]:
        return _only(self._texts)

    @cached_property
    def _by_bytes(self) -> dict[bytes, int | None]:
        return _only(self._bytes(token) for token in range(self.size))

    def _bytes(self, token: int) -> bytes:
        name: Any = self.tokenizer.convert_ids_to_tokens(token)
        if self._is_of_bytes and token not in self._added and all(letter in BYTES for letter in name):
            return bytes(BYTES[letter] for letter in name)
        if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):  # a byte that no other token has
            return bytes.fromhex(name[3:5])
        return self._texts[token].encode("utf-8", "surrogatepass")

    @cached_property
    def _added(self) -> set[int]:
        return {*self.tokenizer.added_tokens_decoder}

    @cached_property
    def _is_of_bytes(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return backend is not None and "ByteLevel" in json.dumps(json.loads(backend.to_str()).get("decoder"))


def _only(texts: Iterable[Text]) -> dict[Text, int | None]:
    """The number of each text, None for one that comes again."""
    found: dict[Text, int | None] = {}
    for number, text in enumerate(texts):
        found[text] = None if text in found else number
    return found
