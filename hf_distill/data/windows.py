"""Questions with their contexts to token ids, a long context to several overlapping windows."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_distill.data.question_answering import ANSWERS
from hf_distill.errors import DataError

logger = logging.getLogger(__name__)

MAX_QUESTION = 64
"""Tokens of a question at most, as in BERT's code for SQuAD (Devlin et al., 2019, arXiv:1810.04805)."""


def windows(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    doc_stride: int,
    input_names: Collection[str] = (),
    with_offsets: bool = False,
) -> Dataset:
    """Rows of one window each: the tokenizer's columns for question and context, `length`, and `example`, the number
    of the question.

    Where question and context together have more than `max_length` tokens, the context is cut into windows that share
    `doc_stride` tokens (of the context; in BERT's own code the stride is the step). Questions are cut to the words
    that fit into `MAX_QUESTION` tokens, or into what `max_length` and `doc_stride` leave; a longer word is cut, too.

    `start_positions` and `end_positions` are the tokens in which the first answer begins and ends; the position of
    the classification token (0 without one) in a window that does not hold the whole of it, for an answer that the
    tokenizer reads as nothing, and for a question without an answer. A row without `answers` has no such columns.

    `with_offsets` adds what turns tokens back into text: `no_answer`, the position of the classification token,
    `context_start`, that of the context's first token, and `offset_starts`, `offset_ends`, the characters of the
    context at which each of its tokens begins and ends.

    Errors: DataError for a tokenizer that knows no offsets, and a `max_length` that leaves no room.
    """
    if not tokenizer.is_fast:
        raise DataError(
            f"windows: {type(tokenizer).__name__} does not say where its tokens stand in the text; take a fast "
            "tokenizer (a folder with tokenizer.json)."
        )
    room = max_length - tokenizer.num_special_tokens_to_add(pair=True) - doc_stride - 1
    if room < 1:
        raise DataError(
            f"windows: {max_length} tokens leave no room for a question beside a doc_stride of {doc_stride}; raise "
            "max_length, or lower doc_stride."
        )
    options = {"max_length": max_length, "stride": doc_stride}
    if "token_type_ids" in input_names:
        options["return_token_type_ids"] = True
    if "special_tokens_mask" in input_names:
        options["return_special_tokens_mask"] = True

    def encode(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
        encoded = tokenizer(
            _cut(batch["question"], tokenizer, min(room, MAX_QUESTION)),
            batch["context"],
            truncation="only_second",
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            **options,
        )
        return _columns(encoded, batch, rows, tokenizer.cls_token_id, with_offsets)

    return dataset.map(
        encode, batched=True, with_indices=True, remove_columns=dataset.column_names, desc="Cutting into windows"
    )


def _cut(questions: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[str]:
    """The questions without the blanks around them, and without what begins or ends after `most` tokens."""
    stripped = [question.strip() for question in questions]
    encoded = tokenizer(stripped, add_special_tokens=False, return_offsets_mapping=True)
    cut = []
    for row, question in enumerate(stripped):
        words, offsets = encoded.word_ids(row), encoded["offset_mapping"][row]
        if len(words) > most:
            kept = _kept(question, words, offsets, most)
            logger.warning("a question of %d tokens is cut to %d: %.60r …", len(words), kept, question)
            question = question[: offsets[kept - 1][1] if kept else 0].rstrip()
        cut.append(question)
    return cut


def _kept(question: str, words: list[int | None], offsets: list[tuple[int, int]], most: int) -> int:
    """How many tokens of a question are kept, up to a word or a blank; where there is none, up to a character.

    To a tokenizer that does not divide texts beforehand (Llama 2, Gemma, Mistral) a text is one word, whatever blanks
    it has.
    """
    ends = [token for token in range(1, most + 1) if 0 < offsets[token - 1][1] <= offsets[token][0]]
    between = {token: question[offsets[token - 1][1] - 1 : offsets[token][0] + 1] for token in ends}
    whole = [token for token in ends if words[token - 1] != words[token] or any(map(str.isspace, between[token]))]
    return (whole or ends or [0])[-1]


def _columns(
    encoded: Any, batch: dict[str, list[Any]], rows: list[int], cls_token_id: int | None, with_offsets: bool
) -> dict[str, Any]:
    """The columns of the windows of some questions."""
    inputs = {name: encoded[name] for name in encoded if name not in ("offset_mapping", "overflow_to_sample_mapping")}
    found: dict[str, Any] = {**inputs, "length": [len(ids) for ids in encoded["input_ids"]]}
    more: dict[str, list[Any]] = {"example": []}
    for window, sample in enumerate(encoded["overflow_to_sample_mapping"]):
        ids = encoded["input_ids"][window]
        no_answer = ids.index(cls_token_id) if cls_token_id in ids else 0
        context = [token for token, part in enumerate(encoded.sequence_ids(window)) if part == 1]
        offsets = np.asarray(encoded["offset_mapping"][window], dtype=np.int32)[context]
        values: dict[str, Any] = {"example": rows[sample]}
        if ANSWERS in batch:
            start, end = _positions(batch[ANSWERS][sample], offsets, context[0] if context else 0, no_answer)
            values |= {"start_positions": start, "end_positions": end}
        if with_offsets:
            values |= {"no_answer": no_answer, "context_start": context[0] if context else 0}
            values |= {"offset_starts": offsets[:, 0], "offset_ends": offsets[:, 1]}
        for name, value in values.items():
            more.setdefault(name, []).append(value)
    return found | more


def _positions(answers: dict[str, list[Any]], offsets: np.ndarray, first: int, no_answer: int) -> tuple[int, int]:
    """The first and the last token of the first answer, but for blanks around it, for a context whose first token is
    at `first`. Of a character of several tokens all are the answer's."""
    if not answers["text"] or not len(offsets):
        return no_answer, no_answer
    text, place = answers["text"][0], answers["answer_start"][0]
    start, end = place + len(text) - len(text.lstrip()), place + len(text.rstrip())
    if start < offsets[0, 0] or end > offsets[-1, 1]:
        return no_answer, no_answer
    begins = int(np.searchsorted(offsets[:, 1], start, side="right"))
    ends = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    return (first + begins, first + ends) if begins <= ends else (no_answer, no_answer)
