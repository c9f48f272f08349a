"""A tiny model that hears, sounds of several lengths for it, with their symbols, and hypotheses of these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from hf_distill.objectives.hypotheses import SCORES, TEXTS


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
