"""Packed conversations in a teacher's cache: written one by one, and read in whatever rows they are packed into."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from datasets import Dataset

from hf_distill import DistillationTrainer, Labels, SoftTargets
from hf_distill.data.documents import PaddedRows, packed
from hf_distill.teachers import Cached
from hf_distill.teachers.cache import codecs
from tests import tiny


def trainer(rows: Dataset, teacher: object) -> DistillationTrainer:
    return DistillationTrainer(
        model=tiny.model("causal_lm", seed=4),
        teacher=teacher,
        objectives=SoftTargets(temperature=2.0) + Labels(),
        args=tiny.arguments(per_device_train_batch_size=2),
        train_dataset=rows,
        data_collator=PaddedRows(0),
    )


def test_conversations_are_found_in_any_packing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "VOCABULARY", 4200)
    torch.manual_seed(0)
    documents = Dataset.from_list([{**row, "length": len(row["input_ids"])} for row in tiny.rows("causal_lm", 12)])
    teacher = tiny.model("causal_lm", layers=3, seed=3)
    written = trainer(packed(documents, 20), teacher)
    written.cache_teacher(tmp_path / "cache", codec=codecs.make("float32", {}))
    assert len(Cached(tmp_path / "cache").reader) == 12
    other = packed(documents.select(range(11)), 33)
    live, cached = (
        trainer(other, tiny.model("causal_lm", layers=3, seed=3)),
        trainer(other, Cached(tmp_path / "cache")),
    )
    alone = trainer(documents, Cached(tmp_path / "cache"))
    for each in (live, cached, alone):
        each.train()
    assert tiny.distance(live.model, cached.model) < 1e-6
