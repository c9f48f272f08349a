"""Raw text for causal models: every next word is a label, padding is none, and a tokenizer needs no padding token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from hf_distill.errors import RecipeError
from hf_distill.recipe import Recipe
from hf_distill.runs import run
from tests import tiny_runs
from tests.recipes.tiny_recipes import gpt2_tokenizer

LENGTH = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`teacher`, a GPT-2 whose tokenizer has no padding token; `train.txt`, `dev.txt`."""
    folder = tmp_path_factory.mktemp("home")
    torch.manual_seed(1)
    tokenizer = gpt2_tokenizer()
    assert tokenizer.pad_token is None
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "initializer_range": 0.3}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "teacher")
    tokenizer.save_pretrained(folder / "teacher")
    tiny_runs.write_text(folder / "train.txt", 60)
    tiny_runs.write_text(folder / "dev.txt", 17, start=500)
    return folder


def recipe(home: Path, **text: Any) -> dict[str, Any]:
    arguments = {
        "max_steps": 3, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 5, "learning_rate": 1.0e-3,
        "use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no",
    }  # fmt: skip
    sources = {
        name: [{"files": [str(home / f"{file}.txt")]}] for name, file in (("train", "train"), ("validation", "dev"))
    }
    return {
        "schema": 1,
        "data": {"text": {**sources, "task": "causal_lm", "cache_dir": str(home / "tokens"), **text}},
        "max_length": LENGTH,
        "teacher": {"model": str(home / "teacher")},
        "student": {"from_layers": {"layers": 1}},
        "stages": [
            {
                "name": "distil",
                "objectives": [{"soft_targets": {}, "weight": 0.5}, {"labels": {}, "weight": 0.5}],
                "arguments": arguments,
            }
        ],
    }


def by_hand(folder: Path, texts: list[str]) -> tuple[float, float, list[int]]:
    """Accuracy and perplexity over every word but the first of each text, text by text, and the words preferred."""
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    right, losses, preferred = [], [], []
    for text in texts:
        ids = tokenizer(text)["input_ids"][:LENGTH]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].numpy()
        for place in range(len(ids) - 1):
            law = logits[place] - np.logaddexp.reduce(logits[place])
            preferred.append(int(law.argmax()))
            right.append(preferred[-1] == ids[place + 1])
            losses.append(-law[ids[place + 1]])
    return float(np.mean(right)), float(np.exp(np.mean(losses))), preferred


def test_a_student_of_gpt2_is_judged_by_every_next_word(home: Path, tmp_path: Path) -> None:
    run(recipe(home, packing="none"), tmp_path / "out")
    found = json.loads((tmp_path / "out/eval_results.json").read_text())
    texts = (home / "dev.txt").read_text().splitlines()
    preferred = {}
    for prefix, folder in (("", tmp_path / "out"), ("teacher_", home / "teacher")):
        accuracy, perplexity, preferred[prefix] = by_hand(folder, texts)
        assert found[f"{prefix}eval_accuracy"] == pytest.approx(accuracy)
        assert found[f"{prefix}eval_perplexity"] == pytest.approx(perplexity, rel=1e-4)
        assert found[f"{prefix}eval_loss"] == pytest.approx(np.log(perplexity), rel=1e-4)
    agreed = np.mean([ours == theirs for ours, theirs in zip(preferred[""], preferred["teacher_"], strict=True)])
    assert found["eval_agreement"] == pytest.approx(agreed)
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.pad_token == saved.eos_token


def test_full_rows_and_streams_are_read_as_well(home: Path, tmp_path: Path) -> None:
    for name, text in (("full", {}), ("stream", {"streaming": True, "shuffle": 8})):
        run(recipe(home, **text), tmp_path / name, evaluate=False)
        record = json.loads((tmp_path / name / "distillation.json").read_text())
        assert (record["steps"], record["task"]) == (3, "causal_lm")


def test_words_are_not_hidden_from_a_causal_model(home: Path) -> None:
    with pytest.raises(RecipeError, match=r"data\.text\.masking: hides words, and a causal model predicts the next"):
        Recipe.from_dict(recipe(home, masking={"probability": 0.2}))
