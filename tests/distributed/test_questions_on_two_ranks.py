"""Windows of unequal lengths on two gloo processes: the figures, answers and student of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.commands.qa import main
from hf_distill.evaluation.latency import Latency
from hf_distill.runs import measuring, results
from tests import tiny_tasks
from tests.processes import ROOT, on_processes


@pytest.mark.slow
def test_two_ranks_answer_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows do not divide by the processes, and each process pads its batches to a length of its own."""
    tiny_tasks.save_reader(tmp_path / "teacher", dropout=0.0)
    files = tiny_tasks.write_squad(tmp_path / "squad", train=12, validation=7, test=3)
    splits = ("train", "validation", "test")
    named = [word for split in splits for word in (f"--{split}_file", str(files / f"{split}.jsonl"))]
    flags = [
        *named, "--max_seq_length", "24", "--doc_stride", "4", "--teacher_name_or_path", str(tmp_path / "teacher"),
        "--student_layers", "1", "--max_steps", "2", "--optim", "sgd", "--learning_rate", "0.1", "--use_cpu",
        "--disable_tqdm", "true", "--train_sampling_strategy", "sequential", "--per_device_eval_batch_size", "2",
        "--do_train", "--do_eval", "--do_predict",
    ]  # fmt: skip
    cut = ["--per_device_train_batch_size", "4", "--output_dir", tmp_path / "two"]
    on_processes(ROOT / "scripts" / "distill_qa.py", *flags, *cut)

    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    assert main([*flags, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one")]) == 0

    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    found = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("two", "one")]
    for key in ("eval_f1", "eval_exact_match", "eval_loss", "eval_samples", "eval_agreement", "teacher_eval_f1"):
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-6), key
    written = [(tmp_path / name / "predict_results_test.json").read_text() for name in ("two", "one")]
    assert written[0] == written[1]
