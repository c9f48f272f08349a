"""Tiny models and made-up rows for question answering and for tagging tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import BertForQuestionAnswering, BertForTokenClassification

from tests import tiny_runs

TAGS = ("O", "B-GOOD", "I-GOOD", "B-BAD", "I-BAD")


def save_reader(folder: Path, seed: int = 1, **size: Any) -> Path:
    """A model that points at answers, with random weights, and its tokenizer."""
    torch.manual_seed(seed)
    BertForQuestionAnswering(tiny_runs.config(("a", "b"), **size)).save_pretrained(folder)
    tiny_runs.tokenizer().save_pretrained(folder)
    return folder


def save_tagger(folder: Path, tags: tuple[str, ...] = TAGS, seed: int = 1, **size: Any) -> Path:
    """A model that tags tokens, with random weights, and its tokenizer."""
    torch.manual_seed(seed)
    BertForTokenClassification(tiny_runs.config(tags, **size)).save_pretrained(folder)
    tiny_runs.tokenizer().save_pretrained(folder)
    return folder


def question_rows(number: int, start: int = 0, without: int = 0) -> list[dict[str, Any]]:
    """Questions whose answer is the telling word of the context; every `without`-th has none. Contexts of every third
    row are longer than a window of 24 tokens."""
    rows = []
    for i in range(start, start + number):
        text, label = tiny_runs.sentence(i)
        context = " ".join([text, *["and so was the film"] * (5 if i % 3 == 0 else 1)])
        answer = text.split()[-1]
        has_none = bool(without) and i % without == 0
        answers = (
            {"text": [], "answer_start": []} if has_none else {"text": [answer], "answer_start": [text.rindex(answer)]}
        )
        question = ("was it bad", "was it good")[label]
        rows.append({"id": f"q{i}", "title": "t", "context": context, "question": question, "answers": answers})
    return rows


def write_squad(folder: Path, train: int = 24, validation: int = 9, test: int = 4, without: int = 0) -> Path:
    """Files in the form of SQuAD; the test has no answers."""
    tiny_runs.write_jsonl(folder / "train.jsonl", question_rows(train, without=without))
    tiny_runs.write_jsonl(folder / "validation.jsonl", question_rows(validation, start=train, without=without))
    bare = [{key: row[key] for key in ("id", "context", "question")} for row in question_rows(test, start=100)]
    tiny_runs.write_jsonl(folder / "test.jsonl", bare)
    return folder


def tagged_rows(number: int, start: int = 0) -> list[dict[str, Any]]:
    """Sentences whose telling word is tagged, by number; in two rows of four it stands twice, as one entity."""
    rows = []
    for i in range(start, start + number):
        text, label = tiny_runs.sentence(i)
        tokens, begins = text.split(), 3 - 2 * label
        tags = [0] * (len(tokens) - 1) + [begins]
        if i // 2 % 2:
            tokens, tags = [*tokens, tokens[-1]], [*tags, begins + 1]
        rows.append({"tokens": tokens, "ner_tags": tags, "idx": i})
    return rows


def write_tagged(folder: Path, train: int = 24, validation: int = 9, test: int = 4) -> Path:
    """Files of tokens with the numbers of their tags; the test has no tags."""
    tiny_runs.write_jsonl(folder / "train.jsonl", tagged_rows(train))
    tiny_runs.write_jsonl(folder / "validation.jsonl", tagged_rows(validation, start=train))
    bare = [{"tokens": row["tokens"]} for row in tagged_rows(test, start=100)]
    tiny_runs.write_jsonl(folder / "test.jsonl", bare)
    return folder
