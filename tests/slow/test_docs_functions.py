"""Functions that the documentation shows do what it says, with tiny models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests import tiny_runs
from tests.docs.pages import blocks
from tests.recipes.tiny_recipes import gpt2_tokenizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning"),  # torch, where there is no GPU
]


def function(page: str, name: str) -> Any:
    """A function of a page."""
    block = next(each for each in blocks("python") if each.page.name == page and f"def {name}(" in each.code)
    found: dict[str, Any] = {}
    exec(compile(block.code, block.place, "exec"), found)
    return found[name]


def test_a_language_model_learns_from_prompts_and_answers(tmp_path: Path) -> None:
    tokenizer = gpt2_tokenizer()
    sizes = {"n_embd": 16, "n_layer": 4, "n_head": 2, "n_positions": 32, "bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    ids = [tokenizer(tiny_runs.sentence(i)[0])["input_ids"] for i in range(12)]
    rows = Dataset.from_dict(
        {
            "input_ids": ids,
            "attention_mask": [[1] * len(row) for row in ids],
            "labels": [[-100, *row[1:]] for row in ids],
        }
    )
    assert len({len(row) for row in ids}) > 1

    trainer = function("language-models.md", "distilled")(str(tmp_path / "teacher"), rows, str(tmp_path / "student"))

    assert trainer.model.config.num_hidden_layers == 2
    log = next(entry for entry in trainer.state.log_history if "objective/soft_targets" in entry)
    assert log["weighted/soft_targets"] == pytest.approx(0.9 * log["objective/soft_targets"])
    trainer.save_model()
    AutoModelForCausalLM.from_pretrained(tmp_path / "student")


def test_a_teacher_labels_texts(tmp_path: Path) -> None:
    folder = tiny_runs.save_teacher(tmp_path / "teacher")
    texts = [tiny_runs.sentence(i)[0] for i in range(4)]
    path = tmp_path / "labelled.jsonl"
    function("few-labels.md", "write_labelled")(str(folder), texts, str(path))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["text"] for row in rows] == texts
    assert {row["label"] for row in rows} <= {"negative", "positive"}


def test_three_layers_of_a_teacher_are_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tiny_runs.save_teacher(tmp_path / "teacher", layers=4)
    tokenizer = tiny_runs.tokenizer()
    told = [tiny_runs.sentence(i) for i in range(16)]
    rows = Dataset.from_dict({**tokenizer([text for text, _ in told]), "labels": [label for _, label in told]})
    found = function("python.md", "train")(str(folder), rows, rows)
    assert 0.0 < found["eval_loss"] < 2.0
    assert (tmp_path / "student" / "model.safetensors").is_file()
