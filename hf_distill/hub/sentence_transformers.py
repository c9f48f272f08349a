"""What sentence-transformers wants beside a sentence encoder, so that it loads it with pooling and norm."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from torch import nn

from hf_distill import writing
from hf_distill.hub.record import write_whole
from hf_distill.sentence_modules import MODULES, POOLING_KEYS
from hf_distill.sentences import SentenceEmbedding, linear_layers

POOLING = "1_Pooling"
FILES = (MODULES, f"{POOLING}/config.json", "sentence_bert_config.json", "config_sentence_transformers.json")
"""What is written, by its place in the folder of the model."""


def write_modules(folder: Path, config: Any, dense: nn.Sequential | None = None) -> None:
    """Writes the modules of a model with this configuration and these dense layers, in the form that every version
    since 2.0 reads; nothing for a model that is no sentence encoder.
    """
    embedding = SentenceEmbedding.of(config)
    if embedding is None:
        return
    layers = list(_dense(dense))
    kinds = ["Transformer", "Pooling", *["Dense"] * len(layers), *(["Normalize"] if embedding.normalize else [])]
    modules = [
        {
            "idx": number,
            "name": str(number),
            "path": f"{number}_{kind}" if number else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for number, kind in enumerate(kinds)
    ]
    width = {"word_embedding_dimension": int(config.hidden_size)}
    chosen = {key: pooling == embedding.pooling for key, pooling in POOLING_KEYS.items()}
    length = {} if embedding.max_length is None else {"max_seq_length": embedding.max_length}
    versions = {"transformers": transformers.__version__, "pytorch": torch.__version__}
    (folder / POOLING).mkdir(parents=True, exist_ok=True)
    _write(folder / MODULES, modules)
    _write(folder / POOLING / "config.json", {**width, **chosen})
    _write(folder / "sentence_bert_config.json", {**length, "do_lower_case": False})
    compared = {"similarity_fn_name": embedding.similarity}
    _write(folder / "config_sentence_transformers.json", {"__version__": versions, **compared})
    for number, (settings, weights) in enumerate(layers, start=kinds.index("Pooling") + 1):
        place = folder / f"{number}_Dense"
        place.mkdir(exist_ok=True)
        _write(place / "config.json", settings)
        writing.write_whole(place / "model.safetensors", safetensors.torch.save(weights))


def _dense(dense: nn.Sequential | None) -> Iterator[tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """The settings and the weights of each dense layer: a linear one with the activation function behind it."""
    for linear, activation in zip(linear_layers(dense), list(dense or ())[1::2], strict=True):
        kind = type(activation)
        settings = {
            "in_features": linear.in_features,
            "out_features": linear.out_features,
            "bias": linear.bias is not None,
            "activation_function": f"{kind.__module__}.{kind.__qualname__}",
        }
        weights = {"linear.weight": linear.weight, "linear.bias": linear.bias}
        yield settings, {name: each.detach().float().cpu() for name, each in weights.items() if each is not None}


def _write(path: Path, value: Mapping[str, Any] | list[Any]) -> None:
    write_whole(path, json.dumps(value, indent=2) + "\n")
