"""Masks for masked language modelling, drawn anew in every epoch and for every row by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from hf_distill.errors import DataError
from hf_distill.tasks import IGNORED

Ids = NDArray[np.int64]
Weights = NDArray[np.float64]
Labelling = Callable[[Ids, int, int], tuple[Ids, Ids]]
"""From a row's ids, the epoch and the number of the row to the ids that are read, and their labels."""

_TRAINING, _EVALUATION = 0, 1
"""Keys that set draws of different purposes apart."""


class Masking:
    """Chooses tokens of a row to be predicted, and hides most of them (Devlin et al., 2019, arXiv:1810.04805).

    ceil(`probability` * n) tokens of a row of n (special tokens counted) are drawn without replacement; special tokens
    are never drawn. Of these, the share `masked` becomes the mask token, the share `random` any token of the
    vocabulary, the rest stays as it is; each is decided by itself.

    `weights` `[vocabulary]`: a token is drawn with a probability in proportion to its weight, see
    `sampling_weights`. DistilBERT's code draws ceil(probability * n) positions of the whole batch at once; drawn row
    by row, a mask does not depend on the other rows of the batch, and each row has the same share, which is
    `probability` up to the rounding.

    `whole_word`: words are drawn instead of tokens, and all pieces of a word with it. Words are taken in random order
    as long as they fit into the number above; those that would exceed it are passed over, as in BERT's code.

    The draw is a function of `(seed, epoch, example)` alone: neither order, workers, processes nor a resumed run
    change it (Philox, a counter-based generator: Salmon et al., 2011).

    Errors: DataError for a tokenizer without a mask token, shares that are none, weights of another length than the
    vocabulary or with negative or non-finite ones, weights beside `whole_word` (no published method has both),
    `whole_word` with a tokenizer that does not mark words.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        seed: int = 0,
        probability: float = 0.15,
        masked: float = 0.8,
        random: float = 0.1,
        weights: Weights | None = None,
        whole_word: bool = False,
        evaluation: bool = False,
    ) -> None:
        _check(probability, masked, random, seed)
        if tokenizer.mask_token_id is None:
            raise DataError(f"{type(tokenizer).__name__} has no mask token; masked language modelling needs one.")
        if weights is not None and whole_word:
            raise DataError("masking: smoothing weighs tokens and whole_word draws words; choose one of them.")
        self.seed, self.probability, self.masked, self.random = seed, probability, masked, random
        self.mask_token = int(tokenizer.mask_token_id)
        self.vocabulary = size_of(tokenizer)
        self.weights = _weights(weights, self.vocabulary, tokenizer.all_special_ids)
        self.begins_word = word_beginnings(tokenizer) if whole_word else None
        self._purpose = _EVALUATION if evaluation else _TRAINING

    def __call__(self, ids: Ids, epoch: int, example: int) -> tuple[Ids, Ids]:
        """The row with tokens hidden, and its labels: the hidden tokens where they were, -100 elsewhere."""
        bits = np.random.Philox(key=[self.seed, self._purpose], counter=[0, 0, epoch, example])
        order, fate, other = np.random.Generator(bits).random((3, len(ids)))
        weights = self.weights[ids]
        number = min(math.ceil(self.probability * len(ids)), int(np.count_nonzero(weights)))
        with np.errstate(divide="ignore"):
            times = -np.log1p(-order) / weights  # the first of exponential clocks are a draw without replacement
        chosen = self._first(times, number) if self.begins_word is None else self._words(ids, times, number)
        labels = np.full(len(ids), IGNORED, dtype=np.int64)
        labels[chosen] = ids[chosen]
        hidden = ids.copy()
        hidden[chosen[fate[chosen] < self.masked]] = self.mask_token
        swapped = chosen[(fate[chosen] >= self.masked) & (fate[chosen] < self.masked + self.random)]
        hidden[swapped] = (other[swapped] * self.vocabulary).astype(np.int64)
        return hidden, labels

    @staticmethod
    def _first(times: NDArray[np.float64], number: int) -> NDArray[np.intp]:
        return np.argpartition(times, number - 1)[:number] if number else np.empty(0, dtype=np.intp)

    def _words(self, ids: Ids, times: NDArray[np.float64], number: int) -> NDArray[np.intp]:
        """Tokens of whole words; a word's clock is that of its first piece."""
        special = self.weights[ids] == 0
        begins = self.begins_word[ids] | special  # type: ignore[index]
        begins[1:] |= special[:-1]
        begins[:1] = True
        starts = np.flatnonzero(begins)
        ends = np.append(starts[1:], len(ids))
        chosen: list[NDArray[np.intp]] = []
        left = number
        for word in np.argsort(times[starts], kind="stable"):
            length = int(ends[word] - starts[word])
            if not left or special[starts[word]]:
                break
            if length <= left:
                chosen.append(np.arange(starts[word], ends[word]))
                left -= length
        return np.concatenate(chosen) if chosen else np.empty(0, dtype=np.intp)


def unmasked(ids: Ids, epoch: int, example: int) -> tuple[Ids, Ids]:
    """A row as it is, and its own ids as labels: what a causal model reads, which shifts them itself."""
    return ids, ids


class Padding:
    """Puts rows together into a batch: `input_ids`, `attention_mask` and `labels`, padded on the right.

    Rows are padded to the longest, or to `length` where batches must be of one size.
    """

    def __init__(self, pad_token: int, length: int | None = None) -> None:
        self.pad_token, self.length = pad_token, length

    def __call__(self, rows: Sequence[dict[str, Ids]]) -> dict[str, Tensor]:
        """A batch of int64 tensors `[rows, length]`."""
        length = max(len(row["input_ids"]) for row in rows) if self.length is None else self.length
        fill = {"input_ids": self.pad_token, "labels": IGNORED}
        batch = {name: np.full((len(rows), length), fill[name], dtype=np.int64) for name in fill if name in rows[0]}
        batch["attention_mask"] = np.zeros((len(rows), length), dtype=np.int64)
        for i, row in enumerate(rows):
            end = len(row["input_ids"])
            batch["attention_mask"][i, :end] = 1
            for name in fill:
                if name in batch:
                    batch[name][i, :end] = row[name]
        return {name: torch.from_numpy(values) for name, values in batch.items()}


def sampling_weights(counts: NDArray[np.int64], special_ids: Collection[int], smoothing: float = 0.7) -> Weights:
    """DistilBERT's weights of tokens: max(count, 1)^-smoothing, 0 for special tokens (Sanh et al., 2019,
    arXiv:1910.01108, after word2vec's subsampling of frequent words).

    `counts` `[vocabulary]`: how often each token stands in the corpus; `smoothing` 0 draws all tokens alike.

    Errors: DataError for negative counts, a smoothing below 0.
    """
    if np.any(counts < 0) or not 0 <= smoothing < math.inf:
        raise DataError(f"masking: smoothing is {smoothing} and the least count {counts.min()}; neither is below 0.")
    weights: Weights = np.maximum(counts, 1).astype(np.float64) ** -smoothing
    weights[[i for i in special_ids if i < len(weights)]] = 0.0
    return weights


def read_counts(path: str | Path, vocabulary: int) -> NDArray[np.int64]:
    """Token counts from a JSON file: a list with one whole number for each id.

    Errors: DataError where the file is missing or no such list.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: token counts cannot be read: {error}.") from error
    whole = isinstance(found, list) and all(type(count) is int and 0 <= count < 2**63 for count in found)
    if not whole or len(found) != vocabulary:
        held = f"a list of {len(found)}" if isinstance(found, list) else type(found).__name__
        raise DataError(
            f"{path}: holds {held}; token counts are a JSON list of {vocabulary} whole numbers, one for each token id."
        )
    return np.asarray(found, dtype=np.int64)


def word_beginnings(tokenizer: PreTrainedTokenizerBase) -> NDArray[np.bool_]:
    """Which tokens begin a word, `[vocabulary]`: in WordPiece those without the prefix of later pieces (`##`), else
    those with the mark of a word boundary (`Ġ` in byte-level BPE, `▁` in SentencePiece).

    Errors: DataError for a vocabulary with none of these.
    """
    vocabulary = tokenizer.get_vocab()
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    later = getattr(model, "continuing_subword_prefix", None)
    marked = {mark: sum(token.startswith(mark) for token in vocabulary) for mark in ("Ġ", "▁")}
    mark = max(marked, key=lambda each: marked[each])
    if not later and not marked[mark]:
        raise DataError(
            f"whole_word: {type(tokenizer).__name__} marks neither the beginnings of words nor later pieces of them; "
            "leave whole_word out."
        )
    begins = np.zeros(size_of(tokenizer), dtype=bool)
    for token, i in vocabulary.items():
        begins[i] = not token.startswith(later) if later else token.startswith(mark)
    return begins


def size_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The length of a table with a place for every token id."""
    ids: list[int] = list(tokenizer.get_vocab().values())
    return max(ids) + 1


def _check(probability: float, masked: float, random: float, seed: int) -> None:
    if not 0 < probability <= 1:
        raise DataError(f"masking: probability is {probability}; it must be above 0 and at most 1.")
    if masked < 0 or random < 0 or not masked + random <= 1:
        raise DataError(f"masking: the shares masked {masked} and random {random} must be 0 or more, and 1 together.")
    if seed < 0:
        raise DataError(f"masking: seed is {seed}; it must be 0 or more.")


def _weights(weights: Weights | None, vocabulary: int, special: Collection[int]) -> Weights:
    found = np.ones(vocabulary) if weights is None else np.array(weights, dtype=np.float64)
    if found.shape != (vocabulary,) or not np.all(np.isfinite(found)) or np.any(found < 0):
        raise DataError(
            f"masking: weights of shape {found.shape} for a vocabulary of {vocabulary}; there must be one for each "
            "token, finite and not below 0."
        )
    found[list(special)] = 0.0
    return found
