"""What a whole job is given, and the parts that are no toolkit's business."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

TEMPERATURE = 2.0
LONGEST = 128
"""Tokens that a text is cut to."""


@dataclass(frozen=True)
class Job:
    """Text to a saved student: 0.5 CE + 0.5 T^2 KL at T = 2, AdamW, linear warm-up and decay.

    `data` holds `train.jsonl[.gz]` and `validation.jsonl[.gz]` with `sentence` and `label`; the first `rows` are
    trained on. `teacher` is a folder with model and tokenizer, `start` one with the student before its first step.
    """

    data: Path
    teacher: Path
    start: Path
    folder: Path
    rows: int
    epochs: int
    seed: int
    batch: int = 32
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    warmup: float = 0.1
    """Share of the steps."""

    @property
    def steps(self) -> int:
        return -(-self.rows // self.batch) * self.epochs

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Job:
        paths = {name: Path(settings[name]) for name in ("data", "teacher", "start", "folder")}
        return cls(**{**settings, **paths})

    def texts(self, split: str, rows: int | None = None) -> dict[str, list[Any]]:
        """Columns `sentence` and `label`."""
        found = next((file for file in self.data.glob(f"{split}.jsonl*")), None)
        if found is None:
            raise SystemExit(f"{self.data} has no {split}.jsonl or {split}.jsonl.gz")
        read = gzip.open if found.suffix == ".gz" else open
        with read(found, "rt", encoding="utf-8") as lines:
            kept = [json.loads(line) for line in islice(lines, rows)]
        return {name: [row[name] for row in kept] for name in ("sentence", "label")}

    def training_texts(self) -> dict[str, list[Any]]:
        texts = self.texts("train", self.rows)
        if len(texts["label"]) < self.rows:
            raise SystemExit(f"{self.data} has {len(texts['label'])} training rows; {self.rows} were asked for")
        return texts

    def tokenizer(self) -> Any:
        return AutoTokenizer.from_pretrained(self.teacher)

    def model(self, folder: Path) -> PreTrainedModel:
        return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)


@torch.inference_mode()
def accuracy(job: Job, model: PreTrainedModel) -> float:
    """Of the validation rows."""
    texts, tokenizer = job.texts("validation"), job.tokenizer()
    right = 0
    for start in range(0, len(texts["label"]), 64):
        part = slice(start, start + 64)
        inputs = tokenizer(
            texts["sentence"][part], truncation=True, max_length=LONGEST, padding=True, return_tensors="pt"
        )
        found = model.eval()(**inputs).logits.argmax(-1)
        right += int((found == torch.tensor(texts["label"][part])).sum())
    return right / len(texts["label"])
