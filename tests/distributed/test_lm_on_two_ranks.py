"""Conversations on two gloo processes: the student of one process, and the same figures of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests import chats
from tests.processes import ROOT, on_processes


@pytest.mark.slow
@pytest.mark.parametrize("asked", [(), ("--targets", "best", "--max_new_tokens", "16")])
def test_two_ranks_make_and_judge_the_student_of_one(tmp_path: Path, asked: tuple[str, ...]) -> None:
    """Seven validation rows, so that the last batches are uneven; also on answers that the teacher writes first."""
    chats.writer().save_pretrained(tmp_path / "teacher")
    chats.tokenizer().save_pretrained(tmp_path / "teacher")
    chats.write(tmp_path, train=16, validation=7)
    flags = [
        "--train_file", str(tmp_path / "train.jsonl"), "--validation_file", str(tmp_path / "validation.jsonl"),
        "--teacher_name_or_path", str(tmp_path / "teacher"), "--student_layers", "1", "--max_seq_length", "128",
        "--packing", "--max_steps", "3", "--optim", "sgd", "--learning_rate", "0.1", "--use_cpu", "--disable_tqdm",
        "true", "--save_strategy", "no", "--per_device_eval_batch_size", "2", "--report_to", "none",
        *asked,
    ]  # fmt: skip
    found = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        cut = ["--output_dir", out, "--per_device_train_batch_size", 4 // processes]
        on_processes(ROOT / "scripts" / "distill_lm.py", *flags, *cut, processes=processes)
        found.append((load_file(out / "model.safetensors"), json.loads((out / "eval_results.json").read_text())))
    (one, figures), (two, others) = found
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    for key in ("eval_loss", "eval_perplexity", "eval_accuracy", "eval_kl", "eval_agreement", "teacher_eval_loss"):
        assert others[key] == pytest.approx(figures[key], rel=1e-5), key
    assert figures["eval_samples"] == others["eval_samples"] == 7
    texts = [sorted((tmp_path / each).rglob("teacher-texts/part-*.jsonl")) for each in ("1", "2")]
    assert [len(each) for each in texts] == [bool(asked)] * 2
    assert all(ours.read_bytes() == theirs.read_bytes() for ours, theirs in zip(*texts, strict=True))
