"""More texts for a small training set: words replaced by what a masked LM, or word vectors, would put there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from datasets.fingerprint import generate_random_fingerprint
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_distill.anatomy import Anatomy
from hf_distill.data.files import choices, describe
from hf_distill.data.word_vectors import WordVectors
from hf_distill.errors import DataError, IncompatiblePair
from hf_distill.tasks import task_of

SAMPLES = {"cola": 30, "mnli": 10, "mrpc": 30, "qnli": 20, "qqp": 10, "rte": 30, "sst2": 20, "stsb": 30}
"""Draws for each text of a GLUE task in the authors' code. The paper has 20 for all; WNLI is in neither."""


def augment_tinybert(
    dataset: Dataset,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text_columns: Sequence[str],
    *,
    samples: int = 20,
    probability: float = 0.4,
    candidates: int = 15,
    word_vectors: WordVectors | str | Path | None = None,
    stop_words: Collection[str] = ENGLISH_STOP_WORDS,
    mix_columns: bool = False,
    seed: int = 0,
    first_row: int = 0,
    batch_size: int = 64,
) -> Dataset:
    """The data augmentation of TinyBERT (Jiao et al., 2020, arXiv:1909.10351, algorithm 1).

    Each row is followed by its variants. A text is cut into words as the tokenizer does before it cuts words into
    pieces; every word that is alphabetic and no stop word gets candidates: a word of one piece the most probable
    `candidates` pieces of `model` in its place, read beside the whole text as a second segment, those left out that
    continue a word; a word of several pieces its nearest `candidates` words among the first 100,000 of the file
    `word_vectors` (in GloVe's text format, or read already; without it such words stay). A variant replaces each word
    that has candidates with `probability` by one of them, all equally likely; `samples` variants are drawn and the
    distinct ones kept. The paper has p_t = 0.4, K = 15 and N_a = 20; `SAMPLES` are the draws of the authors' code by
    task.

    With several `text_columns`, one is varied at a time and the others stay as they are. The authors' code never
    restores a column, so that the variants of the second stand beside the last variant of the first: `mix_columns`.

    What is drawn for a row depends on `seed` and its number alone; `first_row` is the number of the first one, where
    `dataset` is a part of a larger set. `model` reads `batch_size` texts at once, in evaluation mode, on the device
    where it is. Special tokens are no candidates here. The stop words are those of scikit-learn and not of the
    authors' list; give others for another language. Words beyond the length that the model takes stay as they are.

    Errors: IncompatiblePair for a model that is no masked LM, a tokenizer without word pieces or mask token, or of
    more tokens than the model; DataError for settings out of range, a missing column, a cell that is no text, and a
    damaged file of word vectors.
    """
    _check(dataset, text_columns, samples, probability, candidates, seed, first_row, batch_size)
    proposals = _Proposals(model, tokenizer, candidates, batch_size)
    vectors = WordVectors.read(word_vectors) if isinstance(word_vectors, str | Path) else word_vectors
    draw = _Draw(samples, probability, seed)
    stopped = frozenset(stop_words)

    def augment(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, list[Any]]:
        texts = {name: [proposals.text(text, stopped) for text in batch[name]] for name in text_columns}
        proposals.fill([text for column in texts.values() for text in column], vectors)
        augmented: dict[str, list[Any]] = {name: [] for name in batch}
        for i, row in enumerate(rows):
            original = {name: cells[i] for name, cells in batch.items()}
            variants = [
                draw.variants(texts[name][i], first_row + row, number) for number, name in enumerate(text_columns)
            ]
            for made in _rows(original, text_columns, variants, mix_columns):
                for name, cell in made.items():
                    augmented[name].append(cell)
        return augmented

    was_training = model.training
    try:
        model.eval()
        return dataset.map(
            augment, batched=True, batch_size=batch_size, with_indices=True, features=dataset.features,
            load_from_cache_file=False, new_fingerprint=generate_random_fingerprint(), desc="Augmenting",
        )  # fmt: skip
    finally:
        model.train(was_training)


@dataclass
class _Text:
    """A text as words; `pieces[i]` are the token ids of word i, `slots` the words to replace and their candidates."""

    words: list[str]
    pieces: list[list[int]]
    slots: dict[int, list[str]] = field(default_factory=dict)


class _Proposals:
    """What a masked LM proposes for words of one piece, and word vectors for the others."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, candidates: int, batch_size: int
    ) -> None:
        _check_model(model, tokenizer)
        self.anatomy = Anatomy.of(model)
        self.tokenizer = tokenizer
        self.backend = tokenizer.backend_tokenizer
        self.prefix = self.backend.model.continuing_subword_prefix
        self.candidates, self.batch_size = candidates, batch_size
        limits = (self.anatomy.shape.max_length, tokenizer.model_max_length)
        self.max_length = min(limit for limit in limits if limit is not None)
        segments = getattr(model.config, "type_vocab_size", 2) > 1
        self.has_segments = segments and "token_type_ids" in self.anatomy.accepts
        self.excluded = torch.ones(self.anatomy.shape.num_logits, dtype=torch.bool, device=model.device)
        self.excluded[: len(tokenizer)] = False
        self.excluded[list(tokenizer.all_special_ids)] = True

    def text(self, text: str, stop_words: Collection[str]) -> _Text:
        """The words of a text; those to replace have no candidates yet."""
        normalized = self.backend.normalizer.normalize_str(text) if self.backend.normalizer else text
        words = [word for word, _ in self.backend.pre_tokenizer.pre_tokenize_str(normalized)]
        pieces = [[piece.id for piece in self.backend.model.tokenize(word)] for word in words]
        slots = [i for i, word in enumerate(words) if word.isalpha() and word.lower() not in stop_words]
        return _Text(words, pieces, {i: [] for i in slots})

    def fill(self, texts: Sequence[_Text], vectors: WordVectors | None) -> None:
        """Give the words to replace their candidates; a word without any is its own."""
        queries = []
        for text in texts:
            for i in text.slots:
                if len(text.pieces[i]) > 1:
                    text.slots[i] = [] if vectors is None else vectors.nearest(text.words[i], self.candidates)
                    continue
                place = 1 + sum(map(len, text.pieces[:i]))
                if place < self.max_length:
                    queries.append((text, i, place))
        queries.sort(key=lambda query: sum(map(len, query[0].pieces)))  # stable: batches of like lengths
        for start in range(0, len(queries), self.batch_size):
            some = queries[start : start + self.batch_size]
            for (text, i, _), words in zip(some, self._proposed(some), strict=True):
                text.slots[i] = words
        for text in texts:
            for i, words in text.slots.items():
                text.slots[i] = words or [text.words[i]]

    @torch.inference_mode()
    def _proposed(self, queries: Sequence[tuple[_Text, int, int]]) -> list[list[str]]:
        """The words that the model would put into each place, the most probable first."""
        model = self.anatomy.base
        inputs = self._inputs(queries)
        states: Tensor = model.base_model(**inputs)[0]
        places = torch.tensor([place for _, _, place in queries], device=states.device)
        logits = self.anatomy.head(states[torch.arange(len(queries), device=states.device), places])
        allowed = logits.float().masked_fill(self.excluded, -torch.inf)
        scores, best = allowed.topk(min(self.candidates, len(self.excluded)))
        kept = torch.where(scores > -torch.inf, best, -1).tolist()
        named = [self.tokenizer.convert_ids_to_tokens([i for i in ids if i >= 0]) for ids in kept]
        return [[piece for piece in pieces if not piece.startswith(self.prefix)] for pieces in named]

    def _inputs(self, queries: Sequence[tuple[_Text, int, int]]) -> dict[str, Tensor]:
        """[CLS] text with the word masked [SEP] text [SEP], the second text as segment 1, as long as may be."""
        cls, sep = self.tokenizer.cls_token_id, self.tokenizer.sep_token_id
        ids, segments = [], []
        for text, _, place in queries:
            plain = [piece for word in text.pieces for piece in word]
            first = [cls, *plain, sep]
            first[place] = self.tokenizer.mask_token_id
            ids.append([*first, *plain, sep][: self.max_length])
            segments.append(([0] * len(first) + [1] * (len(plain) + 1))[: self.max_length])
        columns = {"input_ids": ids, "attention_mask": [[1] * len(row) for row in ids]}
        if self.has_segments:
            columns["token_type_ids"] = segments
        longest = max(map(len, ids))
        padding = {"input_ids": self.tokenizer.pad_token_id}
        return {
            name: torch.tensor(
                [row + [padding.get(name, 0)] * (longest - len(row)) for row in rows], device=self.excluded.device
            )
            for name, rows in columns.items()
        }


@dataclass(frozen=True)
class _Draw:
    """The variants of a text."""

    samples: int
    probability: float
    seed: int

    def variants(self, text: _Text, row: int, column: int) -> list[str]:
        """The distinct variants, in the order drawn, without the text itself."""
        random = np.random.default_rng([self.seed, row, column])
        size = (self.samples, len(text.slots))
        replaced, which = random.random(size) < self.probability, random.random(size)
        found: dict[str, None] = {" ".join(text.words): None}
        for sample in range(self.samples):
            words = list(text.words)
            for slot, (i, choice) in enumerate(text.slots.items()):
                if replaced[sample, slot]:
                    words[i] = choice[int(which[sample, slot] * len(choice))]
            found[" ".join(words)] = None
        return list(found)[1:]


def _rows(
    original: dict[str, Any], columns: Sequence[str], variants: Sequence[Sequence[str]], mix_columns: bool
) -> Iterator[dict[str, Any]]:
    """The row itself, then a row for each variant of each column."""
    yield original
    base = original
    for name, texts in zip(columns, variants, strict=True):
        made = base
        for text in texts:
            made = {**base, name: text}
            yield made
        base = made if mix_columns else original


def _check(
    dataset: Dataset,
    text_columns: Sequence[str],
    samples: int,
    probability: float,
    candidates: int,
    seed: int,
    first_row: int,
    batch_size: int,
) -> None:
    numbers = {"samples": samples, "candidates": candidates, "batch_size": batch_size}
    numbers |= {"seed": seed, "first_row": first_row}
    for name, value in numbers.items():
        least = 0 if name in ("seed", "first_row") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise DataError(f"augmentation: {name} is {value!r}; it must be a whole number, {least} or more.")
    if not isinstance(probability, int | float) or isinstance(probability, bool) or not 0 < probability <= 1:
        raise DataError(f"augmentation: probability is {probability!r}; it must be a number above 0 and at most 1.")
    if isinstance(text_columns, str) or not text_columns or len(set(text_columns)) != len(text_columns):
        raise DataError(f"augmentation: text columns {text_columns!r}; give a list of distinct names.")
    for name in text_columns:
        if name not in dataset.column_names:
            raise DataError(f"augmentation: no column {name!r}; {choices(name, dataset.column_names)}.")
        for row, cell in enumerate(dataset[name]):
            if not isinstance(cell, str):
                place = f"row {row} (counted from 0), column {name!r}"
                raise DataError(f"augmentation: {place}: holds {describe(cell)}, expected text.")


def _check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    task = task_of(model).name
    if task != "masked_lm":
        raise IncompatiblePair(
            f"augmentation: {type(model).__name__} has no masked-LM head, it solves {task}; give a checkpoint that "
            "was trained as a masked LM, loaded as AutoModelForMaskedLM. It need not be the teacher."
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not getattr(getattr(backend, "model", None), "continuing_subword_prefix", None):
        raise IncompatiblePair(
            f"augmentation: {type(tokenizer).__name__} does not mark the pieces that continue a word, so whole words "
            "cannot be told; take a masked LM with a WordPiece tokenizer. It need not be the teacher."
        )
    needed = ("cls_token_id", "sep_token_id", "pad_token_id", "mask_token_id")
    missing = [name for name in needed if getattr(tokenizer, name) is None]
    if missing:
        raise IncompatiblePair(
            f"augmentation: {type(tokenizer).__name__} has no {missing[0].removesuffix('_id')}; take the tokenizer of "
            "a masked LM."
        )
    vocabulary = Anatomy.of(model).shape.num_logits
    if len(tokenizer) > vocabulary:
        raise IncompatiblePair(
            f"augmentation: the tokenizer has {len(tokenizer)} tokens, the model {vocabulary}; they do not belong "
            "together."
        )
