"""Text of made-up words, a tokenizer that reads it, and a small masked language model: what the benchmarks of
distill_mlm work on. Everything follows from a seed."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SYLLABLES = ["".join(letters) for letters in product("bdfgklmnprstvz", "aeiou", ("", "n", "r", "s"))]
KNOWN = 6000
"""Words that are tokens; the others are cut into syllables."""


def made_up_words(number: int = 20_000) -> list[str]:
    """Distinct words of one to four syllables, the most frequent first."""
    random = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < number:
        found["".join(random.choice(SYLLABLES, random.integers(1, 5)))] = None
    return list(found)


def write_text(path: Path, megabytes: float, seed: int = 0) -> None:
    """Lines of 5 to 40 words, the n-th word as frequent as 1/n."""
    random = np.random.default_rng(seed)
    words = np.array(made_up_words())
    shares = np.cumsum(1.0 / np.arange(1, len(words) + 1))
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < megabytes * 2**20:
            ends = np.cumsum(random.integers(5, 41, 2000))
            drawn = words[np.searchsorted(shares, random.random(ends[-1]) * shares[-1])].tolist()
            starts = [0, *ends[:-1].tolist()]
            file.writelines(" ".join(drawn[i:j]) + "\n" for i, j in zip(starts, ends.tolist(), strict=True))


def save_model(folder: Path, *, layers: int, width: int, seed: int = 0) -> None:
    """A BERT with random weights and dropout, with its tokenizer, which cuts rare words into syllables."""
    pieces = [*SYLLABLES, *(f"##{syllable}" for syllable in SYLLABLES)]
    words = list(dict.fromkeys([*SPECIAL, *pieces, *made_up_words()[:KNOWN]]))
    vocabulary = {word: i for i, word in enumerate(words)}
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=128, **names).save_pretrained(folder)
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=max(width // 32, 1),
        intermediate_size=4 * width,
        max_position_embeddings=128,
    )
    BertForMaskedLM(config).save_pretrained(folder)
