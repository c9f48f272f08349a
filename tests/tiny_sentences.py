"""Tiny sentence encoders in the form of sentence-transformers, and files of sentences for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hf_distill.hub.sentence_transformers import write_modules
from hf_distill.sentences import SentenceEmbedding, give
from tests import tiny_runs


def save_encoder(folder: Path, pooling: str = "mean", normalize: bool = True, **size: Any) -> Path:
    """A random encoder with its modules; its configuration says nothing of them."""
    tiny_runs.save_base(folder, **size)
    model = tiny_runs.BertModel.from_pretrained(folder)
    give(model, SentenceEmbedding(pooling, normalize))
    write_modules(folder, model.config)
    return folder


def text(row: int, column: int = 0) -> str:
    """A text that no other row of a hundred has."""
    return f"{tiny_runs.sentence(row)[0]} {tiny_runs.sentence(row // 40 + 3 * column)[0]}"


def write_pairs(folder: Path, train: int = 24, validation: int = 12) -> Path:
    """`train.jsonl` of texts, `validation.jsonl` of pairs with scores."""
    tiny_runs.write_jsonl(folder / "train.jsonl", [{"text": text(i)} for i in range(train)])
    pairs = [{"one": text(i), "two": text(i + 1 + i % 3, i % 2), "gold": float(i * 7 % 6)} for i in range(validation)]
    tiny_runs.write_jsonl(folder / "validation.jsonl", pairs)
    return folder


def recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of `folder/teacher` and the files in the folder."""
    arguments = {
        "max_steps": 2, "per_device_train_batch_size": 8, "use_cpu": True, "disable_tqdm": True,
        "save_strategy": "no", "report_to": "none", "learning_rate": 1e-3,
    }  # fmt: skip
    plain: dict[str, Any] = {
        "schema": 1,
        "data": {
            "files": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")},
            "embeddings": {"pair_columns": ["one", "two"], "score_column": "gold"},
        },
        "max_length": 16,
        "teacher": {"model": str(folder / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "control": True,
        "stages": [{"name": "distil", "objectives": [{"embedding_mse": {}}], "arguments": arguments}],
    }
    return plain | changes
