"""Two vocabularies: which entry of one stands for which of the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_distill.errors import IncompatiblePair
from hf_distill.objectives.byte_letters import BYTES

Matched = tuple[tuple[int, int], ...]
"""Ids of the student and of the teacher, in the order of the student's."""

ROLES = ("eos_token", "bos_token", "pad_token", "unk_token", "mask_token")
"""Special tokens that stand for the same in both vocabularies, whatever they are called. A token of several roles has
the first of them."""

WORD_BEGINS = "▁"
"""How SentencePiece writes the space before a word."""


@dataclass(frozen=True)
class Across:
    """Student and teacher that read the same text in tokens of their own.

    `exact` pairs the entries that are written alike in both vocabularies, `text` those that stand for the same text,
    however it is written: `Ġthe` of byte-level BPE, `▁the` of SentencePiece and `the` of WordPiece are all a space and
    `the`. Special tokens of the same role are paired in both.
    """

    exact: Matched
    text: Matched

    @classmethod
    def of(cls, student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> Across:
        """The entries of two tokenizers that answer to each other."""
        ours, theirs = student.get_vocab(), teacher.get_vocab()
        roles = _roles(student, teacher)
        return cls(
            _matched(ours, theirs, roles),
            _matched(_first_of_text(student, ours), _first_of_text(teacher, theirs), roles),
        )

    def check(self, student_columns: int, teacher_columns: int) -> None:
        """Raises: `IncompatiblePair` where a model has no logit for an entry."""
        for role, side, columns in (("student", 0, student_columns), ("teacher", 1, teacher_columns)):
            largest = max((pair[side] for each in (self.exact, self.text) for pair in each), default=-1)
            if largest >= columns:
                raise IncompatiblePair(
                    f"the {role}'s tokenizer has an entry {largest}, and the {role} has logits for 0 to "
                    f"{columns - 1}; take the tokenizer that the model was trained with."
                )


def _roles(student: Any, teacher: Any) -> dict[int, int]:
    """The special tokens of both, by what they are for."""
    pairs: dict[int, int] = {}
    for role in ROLES:
        ours, theirs = (getattr(tokenizer, f"{role}_id", None) for tokenizer in (student, teacher))
        if ours is not None and theirs is not None and ours not in pairs and theirs not in pairs.values():
            pairs[ours] = theirs
    return pairs


def _matched(ours: dict[str, int], theirs: dict[str, int], roles: dict[int, int]) -> Matched:
    taken = set(roles.values())
    found = dict(roles)
    for entry, number in ours.items():
        other = theirs.get(entry)
        if other is not None and number not in roles and other not in taken:
            found[number] = other
    return tuple(sorted(found.items()))


def _first_of_text(tokenizer: PreTrainedTokenizerBase, vocabulary: dict[str, int]) -> dict[str, int]:
    """The entry for each text; of several the first. Special tokens stand for no text."""
    reads = _reader(tokenizer)
    special = set(tokenizer.all_special_tokens)
    found: dict[str, int] = {}
    for entry, number in sorted(vocabulary.items(), key=lambda item: item[1]):
        if entry not in special:
            found.setdefault(reads(entry), number)
    return found


def _reader(tokenizer: PreTrainedTokenizerBase) -> Any:
    """What gives the text of an entry, by how the tokenizer marks words."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {}
    if (backend.get("model") or {}).get("type") == "WordPiece":
        inner = backend["model"]["continuing_subword_prefix"]
        return lambda entry: entry.removeprefix(inner) if entry.startswith(inner) else f" {entry}"
    if '"ByteLevel"' in json.dumps([backend.get("pre_tokenizer"), backend.get("decoder")]):
        return _of_bytes
    return lambda entry: entry.replace(WORD_BEGINS, " ")


def _of_bytes(entry: str) -> str:
    """The text of an entry of byte-level BPE; as it is written where its bytes are a part of a character."""
    if any(letter not in BYTES for letter in entry):
        return entry
    try:
        return bytes(BYTES[letter] for letter in entry).decode()
    except UnicodeDecodeError:
        return entry
