"""A whole run on two gloo processes: one set of files, one table, the same student as in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from hf_distill.commands.glue import main
from hf_distill.evaluation.latency import Latency
from hf_distill.runs import measuring, results
from tests import tiny_runs
from tests.processes import ROOT, on_processes


@pytest.mark.slow
def test_two_ranks_make_the_student_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_runs.save_teacher(tmp_path / "teacher", dropout=0.0)
    tiny_runs.write_sst2(tmp_path / "sst2", train=24, validation=11, test=5)
    flags = [
        "--task_name", "sst2", "--dataset_dir", str(tmp_path / "sst2"),
        "--teacher_name_or_path", str(tmp_path / "teacher"),
        "--student_layers", "1", "--num_train_epochs", "1", "--optim", "sgd", "--learning_rate", "0.1", "--use_cpu",
        "--disable_tqdm", "true", "--train_sampling_strategy", "sequential", "--do_train", "--do_eval", "--do_predict",
    ]  # fmt: skip
    cut = ["--per_device_train_batch_size", "4", "--output_dir", tmp_path / "two"]
    printed = on_processes(ROOT / "scripts" / "distill_glue.py", *flags, *cut)
    assert printed.count("accuracy [95 %]") == 1

    latency = Latency(1.0, 0.9, 1.1, 100.0, 1, "cpu", 4)
    monkeypatch.setattr(measuring, "measure_latency", lambda *args, **kwargs: latency)
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    assert main([*flags, "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one")]) == 0

    two, one = (load_file(tmp_path / name / "model.safetensors") for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6)
    found = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("two", "one")]
    for key in ("eval_accuracy", "eval_loss", "eval_samples", "eval_agreement", "teacher_eval_loss"):
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-6), key
    written = [(tmp_path / name / "predict_results_sst2.txt").read_text() for name in ("two", "one")]
    assert written[0] == written[1]
    assert not list((tmp_path / "two").rglob("*.part"))
