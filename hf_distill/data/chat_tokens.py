"""Conversations to rows of token ids, of which the assistant's are learned."""

from __future__ import annotations

import logging
from typing import Any

from datasets import Dataset

from hf_distill.data.chat import ANSWER, LINE, PROMPT, Conversations, messages_of
from hf_distill.data.chat_template import ChatTemplate
from hf_distill.errors import DataError
from hf_distill.objectives.hypotheses import PLACE, SCORES
from hf_distill.tasks import IGNORED, PROMPT_TOKENS

logger = logging.getLogger(__name__)

_CUT, _LOST = "is_cut", "is_lost"


def tokenize_conversations(data: Conversations, split: str, template: ChatTemplate, max_length: int) -> Dataset:
    """`input_ids`, `attention_mask`, `labels` (the ids of the assistant, -100 elsewhere) and `length` of a split. Of
    rows with the column `ANSWER` that answer alone is learned; the columns of `nbest_kd` stay. A prompt alone ends in
    the beginning of an answer and has no label; where a split has some, `prompt_tokens` says of each row how many
    tokens stand before its first answer.

    Conversations are cut behind `max_length` tokens. Those of which no answer is left then, and prompts that leave no
    room for one, are left out; how many, and how many are cut, is said in the log.

    Errors: DataError for a conversation in which the template writes no token of the assistant's, and where none is
    left.
    """

    rows = data.splits[split]
    last, has_prompts = ANSWER in rows.column_names, PROMPT in rows.column_names

    def read(row: dict[str, Any]) -> dict[str, Any]:
        place = data.place(split, row[LINE])
        if is_prompt := bool(row.get(PROMPT)):
            ids = template.beginning(messages_of(row), place)
            labels = [IGNORED] * len(ids)
        else:
            ids, labels = _answered(row, template, place, last)
        kept, ids = labels[:max_length], ids[:max_length]
        asked = next((i for i, label in enumerate(kept) if label != IGNORED), len(kept))
        found = {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": kept, "length": len(ids)}
        found |= {PROMPT_TOKENS: asked} if has_prompts else {}
        lost = asked == (max_length if is_prompt else len(kept))
        return {**found, _CUT: len(labels) + is_prompt > max_length, _LOST: lost}

    dropped = [name for name in rows.column_names if name not in (PLACE, SCORES)]
    made = rows.map(read, remove_columns=dropped, desc="tokenizing")
    return _told(made, split, max_length)


def _answered(row: dict[str, Any], template: ChatTemplate, place: str, last: bool) -> tuple[list[int], list[int]]:
    """The ids and the labels of a conversation with an answer."""
    ids, said = template.read(messages_of(row), place, last=last)
    if not any(said[1:]):
        raise DataError(
            f"{place}: no token that the chat template of {template.name!r} writes is the assistant's, so there "
            "is nothing to learn; its answers are empty, or the template leaves them out. Leave the row out, or give "
            "it an answer that the template writes."
        )
    labels = [token if by_it else IGNORED for token, by_it in zip(ids, said, strict=True)]
    labels[0] = IGNORED  # nothing stands before it
    return ids, labels


def _told(made: Dataset, split: str, max_length: int) -> Dataset:
    """The rows that have something to learn; the log says which have not."""
    cut, lost = sum(made[_CUT][:]), made[_LOST][:]
    kept = [i for i, each in enumerate(lost) if not each]
    if not kept:
        raise DataError(
            f"{split}: none of {len(made)} conversations has a token of the assistant's among its first {max_length}, "
            "or room for one; raise max_length."
        )
    if cut:
        logger.warning(
            "%s: %d of %d conversations are longer than %d tokens and are cut; %d of them have no token of the "
            "assistant's left, or no room for one, and are left out. Raise max_length to keep them.",
            split,
            cut,
            len(made),
            max_length,
            len(made) - len(kept),
        )
    found = made if len(kept) == len(made) else made.select(kept)
    return found.remove_columns([_CUT, _LOST])
