"""A tiny model that hears, and what goes with it; sounds of several lengths, with their symbols, and hypotheses."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from scipy.io import wavfile
from torch import Tensor
from transformers import (
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    Wav2Vec2Processor,
)

from hf_distill.data.speech import characters
from hf_distill.objectives.hypotheses import SCORES, TEXTS
from tests import tiny_runs


def hearing(seed: int = 0) -> Wav2Vec2ForCTC:
    torch.manual_seed(seed)
    config = Wav2Vec2Config(
        vocab_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        conv_dim=(8, 8),
        conv_kernel=(4, 3),
        conv_stride=(3, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        apply_spec_augment=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        final_dropout=0.0,
        layerdrop=0.0,
        ctc_loss_reduction="sum",
        pad_token_id=0,
    )
    return Wav2Vec2ForCTC(config)


def collate(batch: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Pads sounds by zeros and labels by -100."""
    longest, most = (max(len(item[name]) for item in batch) for name in ("input_values", "labels"))
    heard = [item["input_values"] + [0.0] * (longest - len(item["input_values"])) for item in batch]
    mask = [[1] * len(item["input_values"]) + [0] * (longest - len(item["input_values"])) for item in batch]
    labels = [item["labels"] + [-100] * (most - len(item["labels"])) for item in batch]
    return {
        "input_values": torch.tensor(heard),
        "attention_mask": torch.tensor(mask),
        "labels": torch.tensor(labels),
    }


def rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for length, labels in ((60, [1, 2, 2]), (40, [3]), (80, [4, 5, 6, 7])):
        values = torch.randn(length, generator=generator).tolist()
        texts = [labels, [7, *labels]]
        made.append({"input_values": values, "labels": labels, TEXTS: texts, SCORES: [-0.5, -1.5]})
    return made


TEXTS_SAID = ("a bad cab", "dad", "a cab", "bed", "a bee", "cede a bad ace")


def processor() -> Wav2Vec2Processor:
    """A feature extractor at 80 samples a second, and a tokenizer of the characters a to e: 8 symbols, as `hearing`
    has."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "vocab.json")
        file.write_text(json.dumps(characters(["abcde"])), encoding="utf-8")
        tokenizer = Wav2Vec2CTCTokenizer(str(file), bos_token=None, eos_token=None)
    return Wav2Vec2Processor(Wav2Vec2FeatureExtractor(sampling_rate=80, return_attention_mask=True), tokenizer)


def save(folder: Path, seed: int = 0) -> Path:
    """A model that hears with all that goes with it."""
    hearing(seed).save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def write_sounds(folder: Path, train: int = 8, validation: int = 4) -> Path:
    """Files of rows that name WAV files of several lengths, at twice the rate that the models hear, and what is said
    in them."""
    random = np.random.default_rng(0)
    for split, number in (("train", train), ("validation", validation)):
        rows = []
        for i in range(number):
            text = TEXTS_SAID[i % len(TEXTS_SAID)]
            samples = random.integers(-20000, 20000, size=2 * (12 * len(text) + 20 + i)).astype(np.int16)
            (folder / split).mkdir(parents=True, exist_ok=True)
            wavfile.write(folder / split / f"{i}.wav", 160, samples)
            rows.append({"audio": f"{split}/{i}.wav", "text": text})
        tiny_runs.write_jsonl(folder / f"{split}.jsonl", rows)
    return folder
