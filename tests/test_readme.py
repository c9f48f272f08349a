"""What the README says is so: its example runs, and its commands are there; and the table of objectives is the
registry's."""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from hf_distill import objectives

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def save_teacher(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "fine", "dull", "film", "and", "warm", "long"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    BertTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    BertForSequenceClassification(BertConfig(vocab_size=len(words), num_hidden_layers=4, **sizes)).save_pretrained(
        folder
    )


@pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")  # torch, where there is no GPU
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    example = re.search(r"<!-- example -->\n```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    save_teacher(tmp_path / "teacher")
    monkeypatch.chdir(tmp_path)
    exec(compile(example[1], "README.md", "exec"), {})
    assert 0.0 < float(capsys.readouterr().out.strip().splitlines()[-1]) < 2.0
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    assert student.config.num_hidden_layers == 3


def test_the_table_of_objectives_is_up_to_date() -> None:
    documented = runpy.run_path(str(ROOT / "scripts" / "document_objectives.py"))
    page = (ROOT / "docs" / "objectives.md").read_text(encoding="utf-8")
    assert f"{documented['BEGIN']}\n{documented['table']()}\n{documented['END']}" in page
    assert documented["table"]().count("\n") == len(objectives.names()) + 1


@pytest.mark.parametrize("name", ["quickstart", "tests"])
def test_each_command_is_one_line_that_names_the_tested_torch(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "scripts/readme_command.py", name], cwd=ROOT, capture_output=True, text=True, check=True
    )
    (line,) = done.stdout.strip().splitlines()
    words = shlex.split(line)
    assert "torch==2.13.0" in words
    assert all((ROOT / word).exists() for word in words if word.startswith("scripts/"))
    assert words[:4] == ["python3", "-m", "venv", ".venv"]


def test_every_file_that_is_named_exists() -> None:
    named = set(re.findall(r"(?:scripts|recipes|hf_distill|docs)/[\w./-]+", README))
    assert len(named) >= 4
    missing = [name for name in named if not (ROOT / name.rstrip("/.")).exists()]
    assert not missing
