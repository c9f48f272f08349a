"""Texts of unequal lengths on two gloo processes: the generated texts, figures and the measured student of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_distill.commands.translation import main
from hf_distill.runs import results
from tests import writers
from tests.processes import ROOT, on_processes


@pytest.mark.slow
def test_two_ranks_write_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows do not divide by the processes, and the student keeps the layer of each stack that the loss needs more."""
    writers.write_pairs(tmp_path, {}, train=12, validation=7)
    (tmp_path / "test.jsonl").write_text("".join((tmp_path / "validation.jsonl").read_text().splitlines(True)[:5]))
    teacher = writers.writer()
    teacher.encoder.final_layer_norm.weight.data.mul_(4.0)
    teacher.save_pretrained(tmp_path / "teacher")
    writers.tokenizer().save_pretrained(tmp_path / "teacher")
    named = [f"--{split}_file={tmp_path / split}.jsonl" for split in ("train", "validation", "test")]
    flags = [
        *named, "--teacher_name_or_path", str(tmp_path / "teacher"), "--student_layers", "1", "--student_pick",
        "loss_rise", "--max_steps", "2", "--optim", "sgd", "--learning_rate", "0.01", "--use_cpu", "--disable_tqdm",
        "true", "--train_sampling_strategy", "sequential", "--per_device_eval_batch_size", "2", "--max_new_tokens",
        "6", "--do_train", "--do_eval", "--do_predict", "--predict_with_generate", "--generation_max_new_tokens",
        "6", "--report_to", "none",
    ]  # fmt: skip
    cut = ["--per_device_train_batch_size=4", "--output_dir", tmp_path / "two"]
    on_processes(ROOT / "scripts" / "distill_translation.py", *flags, *cut)
    monkeypatch.setattr(results, "write_report", lambda *args: [])
    assert main([*flags, "--per_device_train_batch_size=8", "--output_dir", str(tmp_path / "one")]) == 0

    found = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("two", "one")]
    for key in ("eval_bleu", "eval_chrf", "test_rougeL", "eval_samples", "teacher_eval_chrf"):
        assert found[0][key] == pytest.approx(found[1][key], abs=1e-6), key
    written = [(tmp_path / name / "predict_results_test.txt").read_text() for name in ("two", "one")]
    assert written[0] == written[1]
    assert len(written[0].splitlines()) == 5
    cuts = [
        json.loads((tmp_path / name / "distillation.json").read_text())["cuts"]["distil"] for name in ("two", "one")
    ]
    assert cuts[0]["layers"] == cuts[1]["layers"]
    assert cuts[0]["layers"].keys() == {"encoder", "decoder"}
    assert "by importance, measured on 256 training rows" in (tmp_path / "one" / "README.md").read_text()
