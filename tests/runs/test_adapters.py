"""Adapters of a stage that is over."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification

from hf_distill import Labels
from hf_distill.objectives import Terms
from hf_distill.recipe import Lora
from hf_distill.runs import stages
from tests import tiny


@pytest.mark.parametrize("is_main", [True, False])
def test_every_process_ends_with_the_merged_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_main: bool
) -> None:
    """The first writes it down; in the others it is the same model, and not one that still has its adapters."""
    plain = tiny.model("single_label", layers=1).eval()
    student: Any = get_peft_model(plain, LoraConfig(target_modules=["query"], init_lora_weights=False)).eval()
    batch = {name: each for name, each in tiny.Pad()(tiny.rows("single_label", 4)).items() if name != "labels"}
    with torch.no_grad():
        before = student(**batch).logits
    done = SimpleNamespace(global_step=1, max_steps=1, epoch=1.0)
    saved: list[str] = []
    trainer: Any = SimpleNamespace(
        model=student, state=done, compute_metrics=len, save_model=saved.append, save_state=lambda: None
    )
    monkeypatch.setattr(stages, "is_main_process", lambda: is_main)
    stages._finish(stages.Job("stage", tmp_path, {}, 0, lambda: Terms.of(Labels()), lora=Lora()), trainer, {})
    assert saved == [str(tmp_path)]
    assert not [name for name, _ in student.named_modules() if "lora" in name]
    with torch.no_grad():
        torch.testing.assert_close(student(**batch).logits, before)
    assert (tmp_path / "model.safetensors").is_file() == is_main
    if is_main:
        loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
        with torch.no_grad():
            torch.testing.assert_close(loaded(**batch).logits, before)
