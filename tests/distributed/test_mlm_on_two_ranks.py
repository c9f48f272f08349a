"""Raw text on two gloo processes: no row is read twice, and the student is that of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.commands.mlm import main
from hf_distill.evaluation.latency import Latency
from hf_distill.runs import measuring, results
from tests import tiny_runs
from tests.processes import ROOT, on_processes


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stored", "streamed"])
def test_two_ranks_make_the_student_of_one(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that both ranks read, or that none did, would give another student."""
    tiny_runs.save_masked_lm(tmp_path / "teacher", dropout=0.0)
    tiny_runs.write_text(tmp_path / "train.txt", 200)
    tiny_runs.write_text(tmp_path / "dev.txt", 31, start=500)
    flags = [
        "--train_file", str(tmp_path / "train.txt"), "--validation_file", str(tmp_path / "dev.txt"),
        "--teacher_name_or_path", str(tmp_path / "teacher"), "--student_layers", "1", "--max_seq_length", "16",
        "--max_steps", "12", "--optim", "sgd", "--learning_rate", "0.1", "--use_cpu", "--disable_tqdm", "true",
        "--save_strategy", "no", "--cache_dir", str(tmp_path / "cache"),
        *(["--streaming", "--shuffle_buffer", "20"] if kind == "streamed" else []),
    ]  # fmt: skip
    cut = ["--per_device_train_batch_size", "4", "--output_dir", tmp_path / "two"]
    printed = on_processes(ROOT / "scripts" / "distill_mlm.py", *flags, *cut)
    assert printed.count("accuracy [95 %]") == 1

    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    assert main([*flags, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one")]) == 0

    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    found = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("two", "one")]
    for key in (
        "eval_accuracy",
        "eval_loss",
        "eval_perplexity",
        "eval_samples",
        "eval_agreement",
        "teacher_eval_loss",
    ):
        assert found[0][key] == pytest.approx(found[1][key], rel=1e-5), key
