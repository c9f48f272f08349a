"""Documents to rows of token ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from hf_distill.data.files import choices
from hf_distill.errors import DataError

PACKINGS = ("full", "whole", "none")

CHUNK_DOCUMENTS = 1000
CHUNK_CHARACTERS = 2**20


@dataclass(frozen=True)
class Layout:
    """How a row is made: `prefix`, documents joined by `separator`, `suffix`, at most `max_length` tokens in all.

    `packing` says what goes together. `full`: documents follow one another, and what does not fit goes on in the next
    row, so that rows are full (one token short where the next document would have begun in the last place). `whole`:
    a document that does not fit begins the next row, as in the FULL-SENTENCES of RoBERTa (Liu et al., 2019,
    arXiv:1907.11692). `none`: one document a row, as in DistilBERT's own training. In all of them a document that is
    longer than a row is cut. Attention goes across the documents of a row, as it does in RoBERTa.
    """

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]
    separator: tuple[int, ...]
    max_length: int
    packing: str = "full"

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, max_length: int, packing: str = "full") -> Layout:
        """The special tokens that the tokenizer puts around a text; the separator is its `sep_token`, or its
        `eos_token`.

        Errors: DataError for an unknown packing, a tokenizer without a separator where documents are joined, a
        `max_length` that leaves no room for text.
        """
        if packing not in PACKINGS:
            raise DataError(f"packing is {packing!r}; {choices(packing, PACKINGS)}.")
        prefix, suffix = around(tokenizer)
        separator = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
        if separator is None and packing != "none":
            raise DataError(
                f"packing {packing!r} puts a separator between documents, and {type(tokenizer).__name__} has neither "
                "sep_token nor eos_token; set one, or take packing 'none'."
            )
        if max_length < len(prefix) + len(suffix) + 2:
            raise DataError(
                f"max_length {max_length} leaves no room for text beside {len(prefix) + len(suffix)} special tokens."
            )
        return cls(prefix, suffix, () if separator is None else (separator,), max_length, packing)

    @property
    def body(self) -> int:
        """Tokens of a row beside prefix and suffix."""
        return self.max_length - len(self.prefix) - len(self.suffix)


class Packer:
    """Packs documents, given one after the other, into rows of one `Layout`."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._body: list[int] = []

    def add(self, document: Sequence[int]) -> Iterator[list[int]]:
        """The rows that are finished by one more document, given as token ids without special tokens."""
        if not document:
            return
        if self._body and self._starts_new_row(len(document)):
            yield self._row()
        if self._body:
            self._body += self.layout.separator
        start = 0
        while start < len(document):
            part = document[start : start + self.layout.body - len(self._body)]
            self._body += part
            start += len(part)
            if len(self._body) == self.layout.body:
                yield self._row()

    def rest(self) -> Iterator[list[int]]:
        """The last row, if something is left for it."""
        if self._body:
            yield self._row()

    def _starts_new_row(self, length: int) -> bool:
        if self.layout.packing == "none":
            return True
        room = self.layout.body - len(self._body) - 1  # one is the separator's
        return room < (length if self.layout.packing == "whole" else 1)

    def _row(self) -> list[int]:
        row = [*self.layout.prefix, *self._body, *self.layout.suffix]
        self._body = []
        return row


def chunks(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents by the thousand, or by the million characters where they are long: what is tokenised at once."""
    chunk: list[str] = []
    characters = 0
    for document in documents:
        chunk.append(document)
        characters += len(document)
        if len(chunk) == CHUNK_DOCUMENTS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def token_ids(tokenizer: PreTrainedTokenizerBase, documents: list[str]) -> list[list[int]]:
    """The ids of documents, without special tokens, however long they are."""
    encoded = tokenizer(
        documents,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )
    ids: list[list[int]] = encoded["input_ids"]
    return ids


def around(tokenizer: PreTrainedTokenizerBase) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The special tokens before and behind a text, read off one that is encoded with and without them."""
    bare = token_ids(tokenizer, ["a"])[0]
    whole: list[int] = tokenizer("a")["input_ids"]
    for start in range(len(whole) - len(bare) + 1):
        if bare and whole[start : start + len(bare)] == bare:
            return tuple(whole[:start]), tuple(whole[start + len(bare) :])
    raise DataError(f"{type(tokenizer).__name__}: reads 'a' as {bare}, and as {whole} with its special tokens.")
