"""Folders for whole runs: tiny models with a WordPiece tokenizer, and files of made-up rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    PreTrainedTokenizerFast,
)

GOOD, BAD = ("good", "fine", "lovely", "warm"), ("bad", "dull", "cold", "awful")
NEUTRAL = ("a", "the", "film", "plot", "is", "was", "very", "quite", "and", "so")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (*SPECIAL, *GOOD, *BAD, *NEUTRAL)


def tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerFast:
    """A BERT-like tokenizer whose vocabulary is `words`."""
    vocabulary = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=32, **names)


def config(labels: Sequence[str] | None, layers: int = 2, hidden: int = 16, dropout: float = 0.1) -> BertConfig:
    """A tiny BERT; without labels a regression."""
    names: dict[str, Any] = {"num_labels": 1, "problem_type": "regression"}
    if labels is not None:
        names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    return BertConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        **names,
    )


def save_teacher(
    folder: Path, labels: Sequence[str] | None = ("negative", "positive"), seed: int = 1, **size: Any
) -> Path:
    """A classifier with a head of random weights, and its tokenizer."""
    torch.manual_seed(seed)
    AutoModelForSequenceClassification.from_config(config(labels, **size)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def save_base(folder: Path, seed: int = 2, **size: Any) -> Path:
    """An encoder without a head, and its tokenizer."""
    torch.manual_seed(seed)
    BertModel(config(("a", "b"), **size)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def sentence(row: int) -> tuple[str, int]:
    """A text and its label, which its one telling word gives away."""
    label = row % 2
    telling = (BAD, GOOD)[label][row // 2 % 4]
    filler = [NEUTRAL[(row * 3 + i) % len(NEUTRAL)] for i in range(2 + row % 5)]
    return " ".join([*filler, telling]), label


def sst2_rows(number: int, start: int = 0, labelled: bool = True) -> list[dict[str, Any]]:
    rows = [sentence(start + row) for row in range(number)]
    return [
        {"sentence": text, **({"label": label} if labelled else {"label": -1}), "idx": i}
        for i, (text, label) in enumerate(rows)
    ]


def nli_rows(number: int, labelled: bool = True) -> list[dict[str, Any]]:
    rows = []
    for i in range(number):
        rows.append(
            {"premise": sentence(i)[0], "hypothesis": sentence(i + 1)[0], "label": i % 3 if labelled else -1, "idx": i}
        )
    return rows


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_sst2(folder: Path, train: int = 24, validation: int = 10, test: int = 6) -> Path:
    """The files of SST-2, the test without labels."""
    write_jsonl(folder / "train.jsonl", sst2_rows(train))
    write_jsonl(folder / "validation.jsonl", sst2_rows(validation, start=train))
    write_jsonl(folder / "test.jsonl", sst2_rows(test, start=50, labelled=False))
    return folder


def write_mnli(folder: Path) -> Path:
    """The files of MNLI, and AX in a folder below."""
    write_jsonl(folder / "train.jsonl", nli_rows(12))
    for name in ("validation_matched", "validation_mismatched"):
        write_jsonl(folder / f"{name}.jsonl", nli_rows(6))
    for name in ("test_matched", "test_mismatched"):
        write_jsonl(folder / f"{name}.jsonl", nli_rows(4, labelled=False))
    write_jsonl(folder / "ax" / "test.jsonl", nli_rows(5, labelled=False))
    return folder


def save_masked_lm(folder: Path, seed: int = 3, **size: Any) -> Path:
    """A masked language model, and its tokenizer."""
    torch.manual_seed(seed)
    BertForMaskedLM(config(None, **size)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def write_text(path: Path, lines: int, start: int = 0) -> Path:
    """A file of raw text, a sentence a line."""
    path.write_text("".join(f"{sentence(start + i)[0]}\n" for i in range(lines)), encoding="utf-8")
    return path
